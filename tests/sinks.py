"""A sink that misbehaves on demand and remembers every copy of what it received.

`FaultSink` runs in threads of the test's own process, `SinkProcess` is a process that can be
killed (this file is its program). Both keep what they received in DIRECTORY/sink.db and read how
to behave from DIRECTORY/sink.behaviour at the first byte of each request, so `behave`, `script`
and every question work the same, also across a restart. A test that forks uses `SinkProcess`.
"""

import argparse
import contextlib
import errno
import json
import math
import os
import random
import re
import select
import signal
import sqlite3
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socket import AF_INET, AF_INET6, SHUT_RDWR, SO_LINGER, SOL_SOCKET, socket
from socketserver import ThreadingTCPServer
from typing import Any, NamedTuple, Self

from requests.structures import CaseInsensitiveDict

PATH = "/telemetry"
# Below the ports that the kernel lends to clients: a client of a sink that is down could be lent
# the sink's port, and be connected to itself.
PORTS = range(20_000, 32_000)
START_SECONDS = 30.0
PORTAL = "<!DOCTYPE html><html><body>Welcome to Hotel Wi-Fi. Please sign in.</body></html>"
SPACE = re.compile(r"[ \t\r\n]*")
SPACE_OR_COMMA = re.compile(r"[ \t\r\n,]*")
TEXTS = ("id", "node", "name", "timestamp")
SCHEMA = """PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS request (no INTEGER PRIMARY KEY, serial INTEGER, behaviour TEXT,
    connection TEXT, time REAL, monotonic REAL, method TEXT, path TEXT, headers TEXT, body BLOB,
    complete INTEGER);
CREATE INDEX IF NOT EXISTS request_serial ON request (serial);
CREATE TABLE IF NOT EXISTS received (no INTEGER PRIMARY KEY, id TEXT, node TEXT, name TEXT,
    value, timestamp TEXT, body TEXT, request_no INTEGER, key TEXT);
CREATE INDEX IF NOT EXISTS received_id ON received (id)"""


# --- how to behave ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Behaviour:
    """What to do with one request: read it, refuse or store it, wait, store it late, end.

    `store`: "before" the wait, "after" it, or "no". `ending`: "answer"; "reset" (RST) or "close"
    (FIN) without an answer; "unfinished": an answer cut off in its body; "endless": one whose body
    never ends; "raw": `body` verbatim. `body` None is {"stored": …, "duplicates": …}. `trickle`:
    seconds before each byte of the body, `trickle_head`: of the status line and headers too.
    `unread`: end at the request's first byte, `half_read`: in the middle of its body. `token`: who
    does not show it gets 401. `flap`: 503 in every other span of so many seconds.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    store: str = "before"
    delay: float = 0.0
    hang: bool = False
    ending: str = "answer"
    trickle: float = 0.0
    trickle_head: float = 0.0
    unread: bool = False
    half_read: bool = False
    token: str | None = None
    flap: float = 0.0
    refuse_name: str | None = None
    refuse_value: float | None = None
    refuse_more_than: int | None = None
    refuse_bytes: int | None = None
    refuse_status: int = 400
    refuse_how: str = "answer"


def ok() -> Behaviour:
    """Store, then answer 200."""
    return Behaviour()


def answer(
    status: int, body: str | None = None, *, stored: bool | None = None, **headers: str
) -> Behaviour:
    """Answer `status`; stored only if it is 2xx, or as `stored` says. Retry_After="5": a header."""
    keep = 200 <= status < 300 if stored is None else stored
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    text = body if body is not None or keep else f"status {status} as the test wants\n"
    return Behaviour(status, named, text, store="before" if keep else "no")


def captive_portal() -> Behaviour:
    """Answer 200 with somebody else's web page, storing nothing."""
    return answer(200, PORTAL, stored=False, Content_Type="text/html")


def delay(seconds: float, *, store: str = "before") -> Behaviour:
    """Answer 200 only after so many seconds."""
    return Behaviour(delay=seconds, store=store)


def hang(*, store: str = "before") -> Behaviour:
    """Read, and answer 200 only when released; store "before", "after" or "no".

    With "no" the release ends the connection without an answer.
    """
    return Behaviour(hang=True, store=store, ending="close" if store == "no" else "answer")


def reset(*, stored: bool = True) -> Behaviour:
    """Read the request, store it or not, and reset the connection."""
    return Behaviour(store="before" if stored else "no", ending="reset")


def reset_unread() -> Behaviour:
    """Reset the connection at the request's first byte; listed by requests() with method ""."""
    return Behaviour(unread=True, store="no", ending="reset")


def reset_half_read() -> Behaviour:
    """Reset the connection when half of the request's body has been read."""
    return Behaviour(half_read=True, store="no", ending="reset")


def close(*, stored: bool = True) -> Behaviour:
    """Read the request, store it or not, and close the connection without an answer."""
    return Behaviour(store="before" if stored else "no", ending="close")


def unfinished(status: int = 200, *, stored: bool = True) -> Behaviour:
    """Answer, but close the connection in the middle of the answer's body."""
    return Behaviour(status, store="before" if stored else "no", ending="unfinished")


def endless(status: int = 200, *, stored: bool = True) -> Behaviour:
    """Answer with a body that goes on for as long as anybody reads."""
    return Behaviour(status, store="before" if stored else "no", ending="endless")


def drip(seconds: float, *, head: bool, status: int = 200) -> Behaviour:
    """Store, and answer a byte in so many seconds: from the status line on, or the body alone."""
    return Behaviour(status, trickle=seconds, trickle_head=seconds if head else 0.0)


def guarded(token: str) -> Behaviour:
    """Store for whoever shows the token, and answer 401 to others."""
    return Behaviour(token=token)


def flap(seconds: float) -> Behaviour:
    """Well for so many seconds, 503 for as many, and so on."""
    return Behaviour(flap=seconds)


def raw(text: str, *, stored: bool = True) -> Behaviour:
    """Send these bytes (latin-1) as the answer and keep the connection open."""
    return Behaviour(body=text, store="before" if stored else "no", ending="raw")


def refuse(
    *,
    name: str | None = None,
    value: float | None = None,
    more_than: int | None = None,
    more_bytes_than: int | None = None,
    status: int = 400,
    how: str = "answer",
) -> Behaviour:
    """Refuse a whole batch that has such a message, or is too large; store and answer 200 else.

    `how`: "answer" with that status, "reset", or "hang" until released.
    """
    return Behaviour(
        refuse_name=name,
        refuse_value=value,
        refuse_more_than=more_than,
        refuse_bytes=more_bytes_than,
        refuse_status=status,
        refuse_how=how,
    )


class Orders(NamedTuple):
    """All that the file of behaviour says. `serial` rises with each behave() and script()."""

    serial: int = 0
    standing: Behaviour = Behaviour()
    script: tuple[Behaviour, ...] = ()
    releases: int = 0


def read_orders(file: Path) -> Orders:
    try:
        told = json.loads(file.read_text())
    except FileNotFoundError:
        return Orders()
    script = tuple(Behaviour(**one) for one in told["script"])
    return Orders(told["serial"], Behaviour(**told["standing"]), script, told["releases"])


def write_orders(file: Path, orders: Orders) -> None:
    told = orders._asdict() | {
        "standing": asdict(orders.standing),
        "script": [asdict(one) for one in orders.script],
    }
    new = file.with_suffix(".new")
    new.write_text(json.dumps(told))
    new.replace(file)


# --- what was received --------------------------------------------------------------------------


class Copy(NamedTuple):
    """One copy of a message, as received; `body` is the very text of its JSON object."""

    id: str
    node: str
    name: str
    value: float
    timestamp: str
    body: str
    request_no: int
    key: str | None


class Request(NamedTuple):
    """One request. `monotonic` compares between processes; `connection` names the TCP connection.

    Not `complete`: the connection ended before the announced body did; nothing was stored.
    `behaviour` is what it met.
    """

    no: int
    method: str
    path: str
    headers: CaseInsensitiveDict[str]
    body: bytes
    time: float
    monotonic: float
    connection: str
    complete: bool
    behaviour: Behaviour


def _request(row: Any) -> Request:
    one = Request(*row)
    return one._replace(
        headers=CaseInsensitiveDict(json.loads(row[3])),
        complete=bool(one.complete),
        behaviour=Behaviour(**json.loads(row[9])),
    )


class Orderable:
    """What a test says to a sink and asks it; the same for a thread and for a process."""

    def __init__(self, directory: Path, host: str) -> None:
        self.directory = directory
        self.database = directory / "sink.db"
        self.host = host
        self.port = 0
        self.pem: Path | None = None

    @property
    def url(self) -> str:
        scheme = "https" if self.pem else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}{PATH}"

    # Saying.

    def behave(self, behaviour: Behaviour) -> None:
        """From the next request on, until told otherwise; ends a script."""
        self._order(standing=behaviour, script=())

    def script(self, *behaviours: Behaviour) -> None:
        """One behaviour for each of the next requests, then again the one of behave(), or ok()."""
        self._order(script=behaviours)

    def release(self) -> None:
        """Let go of every request that hangs now."""
        file = _orders_file(self.database)
        orders = read_orders(file)
        write_orders(file, orders._replace(releases=orders.releases + 1))

    def _order(self, **changes: Any) -> None:
        file = _orders_file(self.database)
        orders = read_orders(file)
        write_orders(file, orders._replace(serial=orders.serial + 1, **changes))

    # Asking.

    def messages(self) -> list[Copy]:
        """Every copy of every message, in the order of receipt."""
        return self._copies("")

    def copies(self, message_id: str) -> list[Copy]:
        return self._copies("WHERE id = ?", message_id)

    def stored_ids(self) -> set[str]:
        return {row[0] for row in self._rows("SELECT DISTINCT id FROM received")}

    def count(self) -> int:
        """How many different messages are stored; cheaper than stored_ids()."""
        return int(self._rows("SELECT count(DISTINCT id) FROM received")[0][0])

    def repeated_ids(self) -> set[str]:
        """The messages received more than once."""
        return {
            row[0] for row in self._rows("SELECT id FROM received GROUP BY id HAVING count(*) > 1")
        }

    def differing_ids(self) -> set[str]:
        """The messages whose copies are not identical: always empty, if the agent is right."""
        query = "SELECT id FROM received GROUP BY id HAVING count(DISTINCT body) > 1"
        return {row[0] for row in self._rows(query)}

    def missing_numbers(self) -> list[int]:
        """From 1 to the highest received, those that no stream of the one node has."""
        known = set().union(*self._numbers().values())
        return sorted(set(range(1, max(known, default=0) + 1)) - known)

    def missing_within(self) -> dict[str, list[int]]:
        """By stream: the numbers between the lowest and the highest received that were not."""
        return {
            stream: sorted(set(range(min(known), max(known) + 1)) - known)
            for stream, known in self._numbers().items()
        }

    def _numbers(self) -> dict[str, set[int]]:
        numbers: dict[str, set[int]] = defaultdict(set)
        for message_id in self.stored_ids():
            stream, _, number = message_id.rpartition("-")
            numbers[stream].add(int(number))
        return numbers

    def requests(self) -> list[Request]:
        """Every request read to its end, in the order of their first bytes."""
        query = (
            "SELECT no, method, path, headers, body, time, monotonic, connection, complete,"
            " behaviour FROM request WHERE method IS NOT NULL ORDER BY no"
        )
        return [_request(row) for row in self._rows(query)]

    def request_count(self) -> int:
        """How many requests were read to their end; cheaper than len(requests())."""
        return int(self._rows("SELECT count(method) FROM request")[0][0])

    def behaved(self, behaviour: Behaviour) -> bool:
        """Whether a request that was read to its end met this behaviour."""
        query = "SELECT 1 FROM request WHERE behaviour = ? AND method IS NOT NULL LIMIT 1"
        return bool(self._rows(query, json.dumps(asdict(behaviour))))

    def summary(self) -> str:
        """A few lines for a test that fails."""
        lines = [f"sink at {self.url}: {self.count()} messages, {len(self.messages())} copies"]
        for one in self.requests()[-5:]:
            lines.append(
                f"  request {one.no}: {one.method} {one.path}, {len(one.body)} bytes,"
                f" key {one.headers.get('Idempotency-Key')}: {one.behaviour}"
            )
        return "\n".join(lines)

    def _copies(self, where: str, *values: str) -> list[Copy]:
        columns = ", ".join(Copy._fields)
        query = f"SELECT {columns} FROM received {where} ORDER BY no"
        return [Copy(*row) for row in self._rows(query, *values)]

    def _rows(self, query: str, *values: str) -> list[Any]:
        uri = f"{self.database.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
            return connection.execute(query, values).fetchall()


def _orders_file(database: Path) -> Path:
    return database.with_suffix(".behaviour")


class Book:
    """Writes down what comes in. One connection, one thread at a time."""

    def __init__(self, database: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(database, timeout=30, check_same_thread=False)
        self._connection.executescript(SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def begin(self, connection: str, orders: Orders) -> tuple[int, Behaviour]:
        """A request's number and what it shall meet; each step of a script is given out once."""
        with self._lock, self._connection as db:
            query = "SELECT count(*) FROM request WHERE serial = ?"
            (done,) = db.execute(query, (orders.serial,)).fetchone()
            behaviour = orders.script[done] if done < len(orders.script) else orders.standing
            told = json.dumps(asdict(behaviour))
            cursor = db.execute(
                "INSERT INTO request (serial, behaviour, connection, time, monotonic)"
                " VALUES (?, ?, ?, ?, ?)",
                (orders.serial, told, connection, time.time(), time.monotonic()),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid, behaviour

    def finish(
        self,
        no: int,
        received: tuple[str, str, str, bytes, bool] = ("", "", "{}", b"", False),
        messages: "Sequence[Parsed]" = (),
        key: str | None = None,
    ) -> dict[str, int]:
        """Write down the request and the messages that are stored at once, in one transaction."""
        with self._lock, self._connection as db:
            db.execute(
                "UPDATE request SET method = ?, path = ?, headers = ?, body = ?, complete = ?"
                " WHERE no = ?",
                (*received, no),
            )
            return self._store(db, no, messages, key)

    def store(self, no: int, messages: "Sequence[Parsed]", key: str | None) -> dict[str, int]:
        with self._lock, self._connection as db:
            return self._store(db, no, messages, key)

    def _store(
        self, db: sqlite3.Connection, no: int, messages: "Sequence[Parsed]", key: str | None
    ) -> dict[str, int]:
        stored = 0
        for one in messages:
            known = db.execute("SELECT 1 FROM received WHERE id = ?", (one.fields["id"],))
            stored += known.fetchone() is None
            db.execute(
                "INSERT INTO received (id, node, name, value, timestamp, body, request_no, key)"
                " VALUES (:id, :node, :name, :value, :timestamp, :body, :request_no, :key)",
                {**one.fields, "body": one.text, "request_no": no, "key": key},
            )
        return {"stored": stored, "duplicates": len(messages) - stored}


# --- the server ---------------------------------------------------------------------------------


class Parsed(NamedTuple):
    """A message and the text it was in the request."""

    text: str
    fields: dict[str, Any]


def parse(headers: Any, body: bytes) -> list[Parsed]:
    """The messages in a request. Raises ValueError where the wire contract is broken."""
    encoding = headers.get("Content-Encoding", "identity")
    if encoding not in ("identity", "gzip"):
        raise ValueError(f"Content-Encoding {encoding}")
    try:
        text = (zlib.decompress(body, wbits=31) if encoding == "gzip" else body).decode()
    except zlib.error as error:
        raise ValueError(str(error)) from error
    kind = headers.get_content_type()
    if kind == "application/json":
        return [_checked(one) for one in _elements(text)]
    if kind == "application/x-ndjson":
        return [_checked(line) for line in text.split("\n") if line]
    raise ValueError(f"Content-Type {kind}")


def _elements(text: str) -> Iterator[str]:
    """The text of each element of an array, or the one object, exactly as it was written."""
    json.loads(text)  # raises unless the whole is JSON; below, only places are looked for
    place = _after(SPACE, text, 0)
    if text[place] != "[":
        yield text.strip()
        return
    place = _after(SPACE, text, place + 1)
    while text[place] != "]":
        _, end = json.JSONDecoder().raw_decode(text, place)
        yield text[place:end]
        place = _after(SPACE_OR_COMMA, text, end)


def _after(pattern: re.Pattern[str], text: str, place: int) -> int:
    found = pattern.match(text, place)
    return found.end() if found else place


def _checked(text: str) -> Parsed:
    fields = json.loads(text, parse_int=float)
    if not isinstance(fields, dict) or not {*TEXTS, "value"} <= set(fields):
        raise ValueError(f"a message has id, node, name, value, timestamp: {text:.200}")
    value = fields["value"]
    if not all(isinstance(fields[name], str) and fields[name] for name in TEXTS):
        raise ValueError(f"a text is missing: {text:.200}")
    if type(value) is not float or not math.isfinite(value):
        raise ValueError(f"value is not a finite number: {text:.200}")
    return Parsed(text, fields)


class Server(ThreadingTCPServer):
    """Listens, and knows its open connections, so that stopping cuts them as a crash would."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, database: Path, host: str, port: int, pem: str = "") -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self.tls = _tls(pem) if pem else None
        self.orders_file = _orders_file(database)
        self.stopping = threading.Event()
        self.connections: dict[socket, str] = {}
        self.opened = 0
        self.book = Book(database)
        try:
            super().__init__((host, port), Exchange)
        except BaseException:
            self.book.close()
            raise

    def orders(self) -> Orders:
        return read_orders(self.orders_file)

    def get_request(self) -> tuple[socket, Any]:
        connected, address = super().get_request()
        if self.tls is None:
            return connected, address
        # The handshake comes with the first reading, in the connection's own thread.
        late = {"server_side": True, "do_handshake_on_connect": False}
        return self.tls.wrap_socket(connected, **late), address

    def process_request(self, request: Any, client_address: Any) -> None:
        self.opened += 1
        self.connections[request] = f"{os.getpid()}-{id(self)}-{self.opened}"
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.pop(request, None)
        super().shutdown_request(request)

    def run(self) -> None:
        self.serve_forever(poll_interval=0.02)

    def stop(self) -> None:
        """Cut every connection and wait for the threads."""
        self.stopping.set()
        self.shutdown()
        for request in list(self.connections):
            with contextlib.suppress(OSError):
                request.shutdown(SHUT_RDWR)
        self.server_close()
        self.book.close()


def _tls(pem: str) -> ssl.SSLContext:
    """Shows the certificate in a file that has also its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def listen(database: Path, host: str, port: int, pem: str = "") -> Server:
    """Port 0 is any free one that the kernel does not lend to clients."""
    for _ in range(200):
        try:
            return Server(database, host, port or random.SystemRandom().choice(PORTS), pem)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no free port found")


class Exchange(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 300.0

    def log_message(self, *args: Any, **kwargs: Any) -> None: ...

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLError):
            super().handle()

    def handle_one_request(self) -> None:
        if not self.rfile.peek(1):  # type: ignore[attr-defined]
            self.close_connection = True
            return
        self.orders = self.server.orders()
        connection = self.server.connections[self.connection]
        self.no, self.behaviour = self.server.book.begin(connection, self.orders)
        if self.behaviour.unread:
            self.server.book.finish(self.no)
            self._reset()
        else:
            super().handle_one_request()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length // 2 if self.behaviour.half_read else length)
        headers = json.dumps(dict(self.headers.items()))
        received = (self.command, self.path, headers, body, len(body) == length)
        if len(body) < length:
            self.server.book.finish(self.no, received)
            if self.behaviour.half_read:
                self._reset()
            raise ConnectionAbortedError
        behaviour, messages = self._judge(body)
        self._carry_out(behaviour, messages, received)

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815

    def _judge(self, body: bytes) -> tuple[Behaviour, list[Parsed]]:
        """The behaviour as it turns out for this body, and the messages to be stored."""
        behaviour = self.behaviour
        if behaviour.store == "no" or self.command != "POST":
            return behaviour, []
        if behaviour.token and self.headers["Authorization"] != f"Bearer {behaviour.token}":
            return answer(401), []
        if behaviour.flap and time.monotonic() // behaviour.flap % 2:
            return answer(503), []
        if behaviour.refuse_bytes is not None and len(body) > behaviour.refuse_bytes:
            return answer(behaviour.refuse_status), []
        try:
            messages = parse(self.headers, body)
        except ValueError as error:
            return answer(400, f"malformed: {error}\n"), []
        if reason := _refusal(behaviour, messages):
            return _refusing(behaviour, reason), []
        return behaviour, messages

    def _carry_out(
        self,
        behaviour: Behaviour,
        messages: list[Parsed],
        received: tuple[str, str, str, bytes, bool],
    ) -> None:
        book, key, late = self.server.book, self.headers.get("Idempotency-Key"), []
        if behaviour.store == "after":
            messages, late = [], messages
        counts = book.finish(self.no, received, messages, key)
        if not self._wait(behaviour):
            self.close_connection = True
            return
        if late:
            counts = book.store(self.no, late, key)
        if behaviour.ending == "reset":
            self._reset()
        elif behaviour.ending == "close":
            self.close_connection = True
        elif behaviour.ending == "raw":
            self.wfile.write((behaviour.body or "").encode("latin-1"))
        else:
            self._answer(behaviour, counts)

    def _wait(self, behaviour: Behaviour) -> bool:
        """False: the sink is being stopped."""
        stopping = self.server.stopping
        while behaviour.hang and self.server.orders().releases == self.orders.releases:
            if stopping.wait(0.02):
                return False
        return not stopping.wait(behaviour.delay)

    def _answer(self, behaviour: Behaviour, counts: dict[str, int]) -> None:
        text = json.dumps(counts) + "\n" if behaviour.body is None else behaviour.body
        body = b"" if behaviour.status in (204, 304) else text.encode()
        headers = {"Content-Type": "application/json", "Date": self.date_time_string()}
        if body or behaviour.status not in (204, 304):
            headers["Content-Length"] = str(len(body))
        if behaviour.ending == "unfinished":
            body = body[: len(body) // 2]
            self.close_connection = True
        if behaviour.ending == "endless":
            headers["Content-Length"] = str(1 << 40)
        self.send_response_only(behaviour.status)
        for name, value in (headers | behaviour.headers).items():
            self.send_header(name, value)
        head = b"".join(self._headers_buffer) + b"\r\n"  # type: ignore[attr-defined]
        self._headers_buffer = []
        self._send(head, behaviour.trickle_head)
        self._send(body, behaviour.trickle)
        while behaviour.ending == "endless" and not self.server.stopping.is_set():
            self.wfile.write(b"x" * 4096)

    def _send(self, body: bytes, trickle: float) -> None:
        if not trickle:
            self.wfile.write(body)
            return
        for place in range(len(body)):
            if self.server.stopping.wait(trickle):
                raise ConnectionAbortedError
            self.wfile.write(body[place : place + 1])

    def _reset(self) -> None:
        self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # else it would keep the socket open
        self.connection.close()
        self.close_connection = True


def _refusing(behaviour: Behaviour, reason: str) -> Behaviour:
    if behaviour.refuse_how == "reset":
        return reset(stored=False)
    if behaviour.refuse_how == "hang":
        return hang(store="no")
    return answer(behaviour.refuse_status, f"refused: {reason}\n")


def _refusal(behaviour: Behaviour, messages: list[Parsed]) -> str:
    """Why the batch is refused, or nothing."""
    limit = behaviour.refuse_more_than
    if limit is not None and len(messages) > limit:
        return f"{len(messages)} messages are more than {limit}"
    for one in messages:
        if one.fields["name"] == behaviour.refuse_name:
            return f"{one.fields['id']} has the name {behaviour.refuse_name}"
        if one.fields["value"] == behaviour.refuse_value:
            return f"{one.fields['id']} has the value {behaviour.refuse_value}"
    return ""


# --- the two kinds ------------------------------------------------------------------------------


class FaultSink(Orderable):
    """A sink in threads of this process: `with FaultSink() as sink`. It listens at once.

    Without a `directory`, what it received goes with it.
    """

    def __init__(
        self, directory: Path | None = None, port: int = 0, host: str = "127.0.0.1"
    ) -> None:
        self._clearing = contextlib.ExitStack()
        if directory is None:
            new = tempfile.TemporaryDirectory(prefix="sink-")
            directory = Path(self._clearing.enter_context(new))
        super().__init__(directory, host)
        self.port = port
        self._server: Server | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Listen (again): on the same port, with the same database."""
        assert self._server is None
        self._server = listen(self.database, self.host, self.port)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.run, name=f"sink:{self.port}")
        self._thread.start()

    def stop(self) -> None:
        """Cut all connections and refuse new ones, until start()."""
        if self._server:
            self._server.stop()
            self._thread.join()
            self._server = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        self._clearing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class SinkProcess(Orderable):
    """A sink in a process and session of its own, started at once: `with SinkProcess(tmp_path)`.

    `prefix` is put before its command line, as in ("ip", "netns", "exec", NAME). `pem`, a file
    with a certificate and its key, makes it speak TLS; it may be another at the next start. What
    it writes to stderr is in DIRECTORY/sink.log. It ends with the process that started it.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        pem: Path | None = None,
    ) -> None:
        super().__init__(directory, host)
        self.pem = pem
        self.port = port
        self.prefix = tuple(prefix)
        self.log = directory / "sink.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process, "the sink is not running"
        return self._process.pid

    def start(self) -> None:
        """Start (again) and wait until it listens: on the same port, with the same database."""
        assert self._process is None
        program = [sys.executable, str(Path(__file__).absolute())]
        options = ["--db", str(self.database), "--host", self.host, "--port", str(self.port)]
        options += ["--pem", str(self.pem)] if self.pem else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, *program, *options],
                stdin=subprocess.PIPE,  # it ends when this end is gone
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.port = self._await_port()
        except BaseException:
            self.kill()
            raise

    def _await_port(self) -> int:
        assert self._process and self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        line = self._process.stdout.readline().decode() if ready else ""
        if not line.startswith("http://"):
            raise AssertionError(f"the sink did not start: {self.log.read_text()}")
        return int(line.removesuffix(f"{PATH}\n").rpartition(":")[2])

    def kill(self) -> None:
        """SIGKILL its whole session, and wait for its end."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait for its end; nothing if it does not run."""
        self.resume()
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill it if it runs, and start it on the same port and database."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: the kernel still accepts connections, nobody answers."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self._process:
            os.killpg(self.pid, signal.SIGCONT)

    def _end(self, signum: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with process:  # closes its pipes
            if process.poll() is None:
                os.killpg(process.pid, signum)
            try:
                process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def main() -> int:
    """The program of SinkProcess: says its url when it listens, runs until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--pem", default="")
    options = parser.parse_args()
    stop = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    server = listen(options.db, options.host, options.port, options.pem)
    running = threading.Thread(target=server.run)
    running.start()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(f"http://{options.host}:{server.server_address[1]}{PATH}", flush=True)
    signal.sigwait(stop)
    server.stop()
    running.join()
    return 0


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
