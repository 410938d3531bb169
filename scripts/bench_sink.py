"""A sink for scripts/bench that only counts: so cheap that it is never the bottleneck.

Usage: bench_sink.py    prints its port, serves until its standard input ends. GET answers JSON:
`messages` and `requests` so far, `latencies` in seconds from capture to here, since the last GET.
"""

import json
import re
import socket
import sys
import threading
import time
from datetime import datetime

MOST_BYTES = 4 * 1024 * 1024
# Beyond so many messages in a request nobody asks for latencies, and finding them is dear.
MOST_TIMED = 200
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
TIMESTAMP = re.compile(rb'"timestamp":"([^"]+)Z"')
ID = b'{"id":'


class Counter:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages = self._requests = 0
        self._latencies: list[float] = []

    def add(self, body: memoryview) -> None:
        now = time.time()
        text = bytes(body)
        count = text.count(ID)
        found = TIMESTAMP.findall(text) if count <= MOST_TIMED else []
        times = [datetime.fromisoformat(f"{at.decode()}+00:00").timestamp() for at in found]
        with self._lock:
            self._messages += count
            self._requests += 1
            self._latencies += [now - at for at in times]

    def report(self) -> bytes:
        with self._lock:
            latencies, self._latencies = self._latencies, []
            content = {"messages": self._messages, "requests": self._requests}
        return json.dumps({**content, "latencies": latencies}).encode()


def serve(connection: socket.socket, counter: Counter) -> None:
    """One keep-alive connection, one request at a time."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    memory = memoryview(bytearray(MOST_BYTES))
    while True:
        filled, head_end = 0, -1
        while head_end < 0:
            got = connection.recv_into(memory[filled:])
            if not got:
                return
            filled += got
            head_end = bytes(memory[: min(filled, 8192)]).find(b"\r\n\r\n")
        head = bytes(memory[:head_end])
        if head.startswith(b"GET"):
            body = counter.report()
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            return
        end = head_end + 4 + int(LENGTH.search(head)[1])
        while filled < end:
            got = connection.recv_into(memory[filled:end])
            if not got:
                return
            filled += got
        counter.add(memory[head_end + 4 : end])
        connection.sendall(OK)


def main() -> None:
    counter = Counter()
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, counter), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
