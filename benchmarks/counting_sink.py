"""A sink for scripts/bench that only counts: so cheap that it is not what is measured.

Usage: counting_sink.py [--port N] [--latencies]    prints its port, serves until its standard input
ends. GET answers JSON: `messages` and `requests` so far; `first_at`, when the first message came,
in seconds of CLOCK_MONOTONIC, or null; `latencies` in seconds from capture to complete arrival
since the last GET. Those cost as much as all the rest, so they are taken only when asked for.

One thread waits for all connections: two that take turns at Python's lock serve half as much.
"""

import argparse
import json
import re
import selectors
import socket
import sys
import time
from datetime import datetime

MOST_BYTES = 4 * 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
EXPECT = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)
TIMESTAMP = re.compile(rb'"timestamp":"([^"]+)Z"')
ID = b'{"id":'


class Counter:
    def __init__(self, times: bool) -> None:
        self._times = times
        self._messages = self._requests = 0
        self._first_at: float | None = None
        self._latencies: list[float] = []

    def add(self, memory: bytearray, begin: int, end: int) -> None:
        """One request, whose body is `memory` from `begin` to `end`."""
        if self._times:
            now = time.time()
            for at in TIMESTAMP.findall(memory, begin, end):
                captured = datetime.fromisoformat(f"{at.decode()}+00:00").timestamp()
                self._latencies.append(now - captured)
        self._messages += memory.count(ID, begin, end)
        self._requests += 1
        if self._first_at is None and self._messages:
            self._first_at = time.monotonic()

    def report(self) -> bytes:
        found = {
            "messages": self._messages,
            "requests": self._requests,
            "first_at": self._first_at,
            "latencies": self._latencies,
        }
        self._latencies = []
        return json.dumps(found).encode()


class Connection:
    """One keep-alive connection, one request at a time."""

    def __init__(self, connection: socket.socket, counter: Counter) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._counter = connection, counter
        self._memory = bytearray(MOST_BYTES)
        self._view = memoryview(self._memory)
        self._filled = 0
        # Where the body begins and ends; -1 until the head is there.
        self._begin = self._end = -1

    def receive(self) -> bool:
        """Take what has come; returns whether the connection goes on."""
        try:
            got = self._socket.recv_into(self._view[self._filled :])
        except ConnectionError:
            return False
        self._filled += got
        if not got:
            return False
        if self._end < 0 and not self._read_head():
            return True
        if self._memory.startswith(b"GET"):
            body = self._counter.report()
            head = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            self._socket.sendall(head + body)
            return False
        if self._filled >= self._end:
            self._counter.add(self._memory, self._begin, self._end)
            self._filled, self._end = 0, -1
            self._socket.sendall(OK)
        return True

    def close(self) -> None:
        self._socket.close()

    def _read_head(self) -> bool:
        head_end = self._memory.find(HEAD_END, 0, self._filled)
        if head_end < 0:
            return False
        length = LENGTH.search(self._memory, 0, head_end)
        self._begin = head_end + len(HEAD_END)
        self._end = self._begin + (int(length[1]) if length else 0)
        if self._end > MOST_BYTES:
            raise SystemExit(f"counting_sink: a request of {self._end} bytes is too large")
        if self._filled < self._end and EXPECT.search(self._memory, 0, head_end):
            self._socket.sendall(CONTINUE)
        return True


def serve(listener: socket.socket, counter: Counter) -> None:
    """Until standard input ends."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                accepted, _ = listener.accept()
                connection = Connection(accepted, counter)
                selector.register(accepted, selectors.EVENT_READ, connection)
            elif key.fileobj is sys.stdin:
                return
            elif not key.data.receive():
                selector.unregister(key.fileobj)
                key.data.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latencies", action="store_true")
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", options.port)) as listener:
        print(listener.getsockname()[1], flush=True)
        serve(listener, Counter(options.latencies))


if __name__ == "__main__":
    main()
