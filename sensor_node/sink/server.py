"""The development sink: an HTTP server that stores each message once, then answers."""

import json
import signal
import sqlite3
import threading
import time
import zlib
from contextlib import ExitStack, closing, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

from sensor_node.core.errors import SensorNodeError

MAX_BYTES = 16 * 1024 * 1024  # of a body, compressed or not: 16 times the node's largest
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
FIELDS = {"id": str, "node": str, "name": str, "value": float, "timestamp": str}
# `value` has no type because a REAL column turns -0.0 into 0.0. `received_at`: wall seconds.
SCHEMA = """PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE IF NOT EXISTS message
    (id TEXT PRIMARY KEY, node TEXT, name TEXT, value, timestamp TEXT, received_at REAL)"""
COUNT = "SELECT count(received_at) FROM message"  # fails if the file is a node's own database
INSERT = "INSERT OR IGNORE INTO message VALUES (:id, :node, :name, :value, :timestamp, :now)"


class Sink(ThreadingTCPServer):
    """The listening socket, the store (one thread at a time) and the counts since the start."""

    allow_reuse_address = daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, store: sqlite3.Connection) -> None:
        self.store, self.lock = store, threading.Lock()
        self.counts = {"messages": next(store.execute(COUNT))[0], "duplicates": 0, "requests": 0}
        super().__init__((host, port), Exchange)

    def add(self, messages: list[dict[str, Any]]) -> dict[str, int]:
        """Store all messages in one transaction, or none if it raises sqlite3.Error.

        Returns how many were stored, and how many were known already.
        """
        rows = [{**message, "now": time.time()} for message in messages]
        with self.lock:
            with self.store:
                stored = self.store.executemany(INSERT, rows).rowcount
            self.counts["messages"] += stored
            self.counts["duplicates"] += len(rows) - stored
        return {"stored": stored, "duplicates": len(rows) - stored}


class Exchange(BaseHTTPRequestHandler):
    """One connection: GET tells the counts, POST stores messages, whatever the path."""

    server: Sink
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60.0  # seconds; a connection that is silent for so long is closed

    def log_message(self, *args: Any, **kwargs: Any) -> None: ...  # no access log

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client may go away
            super().handle()

    def do_GET(self) -> None:
        self._answer(200, self.server.counts)

    def do_POST(self) -> None:
        with self.server.lock:
            self.server.counts["requests"] += 1
        try:
            self._answer(200, self.server.add(self._messages()))
        except (ValueError, RecursionError, zlib.error) as error:
            self._answer(400, {"error": str(error)})
        except sqlite3.Error as error:
            self._answer(503, {"error": f"cannot store: {error}"})

    def _messages(self) -> list[dict[str, Any]]:
        """The messages in the body. Raises ValueError, RecursionError or zlib.error."""
        length = self.headers.get("Content-Length", "none")
        if not length.isdecimal() or len(length) > 9 or int(length) > MAX_BYTES:
            self.close_connection = True  # the body stays unread
            raise ValueError(f"Content-Length is {length:.20}: want at most {MAX_BYTES}")
        body = self.rfile.read(int(length))  # a body that was cut short will not parse
        if self.headers["Content-Encoding"] == "gzip":
            unpacker = zlib.decompressobj(wbits=31)  # 31: gzip
            body = unpacker.decompress(body, MAX_BYTES)
            if not unpacker.eof or unpacker.unused_data:
                raise ValueError(f"want one whole gzip stream of at most {MAX_BYTES} bytes")
        if self.headers.get_content_type() == "application/x-ndjson":
            body = b"[" + b",".join(line for line in body.split(b"\n") if line.strip()) + b"]"
        content = json.loads(body, parse_int=float)
        messages = content if isinstance(content, list) else [content]
        for message in messages:
            types = isinstance(message, dict) and {name: type(message.get(name)) for name in FIELDS}
            if types != FIELDS or not abs(message["value"]) < float("inf"):
                wanted = f"want texts and a finite value for {[*FIELDS]}"
                raise ValueError(f"{wanted}, not {message!r:.200}")
        return messages

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content) + "\n"
        head = f"HTTP/1.1 {status} {self.responses[status][0]}\r\nContent-Length: {len(body)}\r\n"
        head += f"Connection: {['keep-alive', 'close'][self.close_connection]}\r\n"
        self.wfile.write(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())


def serve(host: str, port: int, database: Path) -> int:
    """Run until SIGTERM or SIGINT, then return 0. Port 0: any free one. Raises SensorNodeError."""
    with ExitStack() as stack:
        try:
            store = sqlite3.connect(database, check_same_thread=False)
            stack.enter_context(closing(store)).executescript(SCHEMA)
            sink = stack.enter_context(Sink(host, port, store))
        except (sqlite3.Error, OSError, OverflowError) as error:
            address = f"--host {host} --port {port}"
            option = f"--db {database}" if isinstance(error, sqlite3.Error) else address
            raise SensorNodeError(f"sink: cannot use {option}: {error}; choose another") from error
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        threading.Thread(target=sink.serve_forever, args=(0.1,), daemon=True).start()
        url = f"http://{host}:{sink.server_address[1]}/telemetry"
        print(f"sink: listening on {url}, storing in {database}", flush=True)
        signal.sigwait(STOP_SIGNALS)
        sink.shutdown()
        sink.lock.acquire()  # let a transaction finish; no other begins
    print("sink: stopped; {messages} messages, {duplicates} duplicates".format(**sink.counts))
    return 0
