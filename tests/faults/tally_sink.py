"""A sink that takes a million messages in seconds: it keeps ids only, as runs of numbers.

`tally_sink.py PORT FILE`: appends to FILE, for each request, a line of the monotonic time at its
first byte and the runs (stream, first, last) of the ids in it, before it answers 200.
"""

import itertools
import random
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple, Self

# Below those that the kernel lends to clients; see tests/sinks.py.
PORTS = range(20_000, 32_000)
ID = re.compile(rb'"id":"([0-9a-f]{24})-(\d+)"')
WRITING = threading.Lock()


class Run(NamedTuple):
    """Consecutive numbers of a stream, in one request."""

    at: float
    stream: str
    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


def runs_of(body: bytes) -> list[tuple[str, int, int]]:
    found = [(stream.decode(), int(number)) for stream, number in ID.findall(body)]
    runs = []
    for _, group in itertools.groupby(enumerate(found), lambda one: one[1][1] - one[0]):
        ids = [each for _, each in group]
        runs.append((ids[0][0], ids[0][1], ids[-1][1]))
    return runs


class Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 300.0

    def log_message(self, *args: object) -> None: ...

    def do_POST(self) -> None:
        at = time.monotonic()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with WRITING, Path(sys.argv[2]).open("a") as file:
            for stream, first, last in runs_of(body):
                file.write(f"{at} {stream} {first} {last}\n")
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


class TallySink:
    """Not running until start(); at stop() it is killed, and whoever connects is refused."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "received"
        self.port = random.SystemRandom().choice(PORTS)
        self.url = f"http://127.0.0.1:{self.port}/telemetry"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, str(Path(__file__).absolute()), str(self.port), str(self.file)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def received(self) -> list[Run]:
        """In the order of receipt; the last line may still be on its way."""
        whole = self.file.read_text().rpartition("\n")[0] if self.file.exists() else ""
        lines = [line.split() for line in whole.splitlines()]
        runs = [Run(float(at), stream, int(first), int(last)) for at, stream, first, last in lines]
        return sorted(runs, key=lambda run: run.at)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Exchange)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
