"""The counting sink, as a process of its own."""

import json
import socket
import subprocess
import sys
import urllib.request
from typing import Any

from benchmarks.trial import ROOT, Unusable

PROGRAM = str(ROOT / "benchmarks" / "counting_sink.py")


class Sink:
    """Listening on 127.0.0.1 when it is made. See counting_sink.py for what ask() returns."""

    def __init__(self, port: int = 0, *, latencies: bool = False) -> None:
        command = [sys.executable, PROGRAM, "--port", str(port)]
        # An interrupt at the terminal is this program's alone, which then ends the sink.
        self._process = subprocess.Popen(
            [*command, "--latencies"] if latencies else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise Unusable(f"the sink cannot listen on 127.0.0.1:{port}; try another --sink-port")
        self.port, self.pid = int(line), self._process.pid

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=30) as answer:
            return json.load(answer)

    def messages(self) -> int:
        return self.ask()["messages"]

    def close(self) -> None:
        self._process.communicate()


def check_port(port: int) -> None:
    """Raises Unusable if the sink could not listen there."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "must be from 0 to 65535"
        raise Unusable(f"--sink-port {port}: 127.0.0.1: {reason}; choose another, or 0") from error


def free_port(wanted: int) -> int:
    """`wanted`, or a port that nobody listens on now, for a sink that is to come later."""
    if wanted:
        return wanted
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
