"""What `sensor-node-ctl sink` promises: each message once, stored before the answer."""

import gzip
import http.client
import json
import os
import select
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from sensor_node.core.errors import SensorNodeError
from sensor_node.sink.server import MAX_BYTES, SCHEMA, Exchange, Sink, serve

DEADLINE = 30.0
PROGRAM = """
import sys
from pathlib import Path
from sensor_node.sink.server import serve
sys.exit(serve("127.0.0.1", int(sys.argv[1]), Path(sys.argv[2])))
"""


class Running:
    """The sink as a process of its own."""

    def __init__(self, database: Path, port: int = 0) -> None:
        self.database = database
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port), str(database)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE)
        self.greeting = self.process.stdout.readline() if ready else ""
        if "listening" not in self.greeting:
            raise AssertionError(f"the sink did not start: {self.end(signal.SIGKILL)}")
        self.port = int(self.greeting.partition("/telemetry")[0].rpartition(":")[2])
        self.client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)

    def end(self, signum: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Its exit status and what it wrote to stdout, since the greeting, and to stderr."""
        if hasattr(self, "client"):
            self.client.close()
        with suppress(ProcessLookupError):
            self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, out, err

    def post(self, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.client.request("POST", "/telemetry", body, {"Content-Type": JSON} | named)
        return self.answer()

    def counts(self) -> dict[str, int]:
        self.client.request("GET", "/")
        return self.answer()[1]

    def answer(self) -> tuple[int, dict[str, Any]]:
        with self.client.getresponse() as response:
            text = response.read().decode()
        assert text.count("\n") == 1
        return response.status, json.loads(text)

    def rows(self) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            query = "SELECT id, node, name, value, timestamp FROM message ORDER BY rowid"
            return connection.execute(query).fetchall()


JSON = "application/json"
NDJSON = "application/x-ndjson"
WHEN = "2026-11-23T07:44:38.120000Z"


def message(number: int, value: float = 1.5) -> dict[str, Any]:
    return {
        "id": f"9f3c-{number}",
        "node": "edge-01",
        "name": "temperature",
        "value": value,
        "timestamp": WHEN,
    }


def row(number: int) -> tuple[Any, ...]:
    return tuple(message(number).values())


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "sink.db"


@pytest.fixture
def sink(database: Path) -> Iterator[Running]:
    yield from running(database)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """For tests that only compare before and after."""
    yield from running(tmp_path_factory.mktemp("shared") / "sink.db")


def running(database: Path) -> Iterator[Running]:
    sink = Running(database)
    try:
        yield sink
    finally:
        if sink.process.returncode is None:
            _, _, err = sink.end()
            assert err == ""


# Each message once, stored before the answer.


def test_a_message_is_stored_when_the_answer_comes(sink: Running) -> None:
    assert sink.post([message(1), message(2)]) == (200, {"stored": 2, "duplicates": 0})
    assert sink.rows() == [row(1), row(2)]


def test_a_message_sent_again_is_stored_once(sink: Running) -> None:
    sink.post([message(1), message(2)])
    assert sink.post([message(2), message(3), message(3)]) == (
        200,
        {"stored": 1, "duplicates": 2},
    )
    assert sink.rows() == [row(1), row(2), row(3)]


def test_many_clients_sending_the_same_at_once_store_it_once(sink: Running) -> None:
    batches = [[message(n) for n in range(first, first + 20)] for first in range(0, 100, 10)]
    stored: list[int] = []

    def send() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", sink.port, timeout=DEADLINE)) as one:
            for batch in batches:
                one.request("POST", "/", json.dumps(batch), {"Content-Type": JSON})
                stored.append(json.loads(one.getresponse().read())["stored"])

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert sum(stored) == 110
    assert len(stored) == 80
    assert sink.counts() == {"messages": 110, "duplicates": 8 * 200 - 110, "requests": 80}
    assert {one[0] for one in sink.rows()} == {f"9f3c-{n}" for n in range(110)}


def test_what_was_answered_survives_a_kill(sink: Running, database: Path) -> None:
    sink.post([message(1), message(2)])
    sink.end(signal.SIGKILL)
    again = Running(database, sink.port)  # at once, on the same port
    try:
        assert again.counts() == {"messages": 2, "duplicates": 0, "requests": 0}
        assert again.post([message(2), message(3)]) == (200, {"stored": 1, "duplicates": 1})
        assert again.rows() == [row(1), row(2), row(3)]
    finally:
        again.end()


@pytest.mark.parametrize(
    "value",
    [21.487, 0.1 + 0.2, -0.0, 0.0, 5e-324, 1.7976931348623157e308, -5.0, 2.0**53, 1 / 3],
)
def test_values_are_kept_bit_for_bit(shared: Running, value: float) -> None:
    shared.post(message(1, value) | {"id": f"value-{value!r}"})
    [kept] = [one[3] for one in shared.rows() if one[0] == f"value-{value!r}"]
    assert struct.pack(">d", kept) == struct.pack(">d", value)


def test_a_whole_number_is_a_value_too(sink: Running) -> None:
    assert sink.post(message(1) | {"value": 20})[0] == 200
    [(_, _, _, kept, _)] = sink.rows()
    assert isinstance(kept, float)
    assert kept == 20.0


# What it understands.


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, json.dumps([message(1), message(2)])),
        (JSON, json.dumps([message(1), message(2)], indent=2)),
        (NDJSON, f"{json.dumps(message(1))}\n{json.dumps(message(2))}\n"),
        (NDJSON, f"{json.dumps(message(1))}\n\n{json.dumps(message(2))}"),
        (f"{JSON}; charset=utf-8", json.dumps([message(1), message(2)])),
    ],
)
def test_arrays_and_lines_are_understood_packed_or_not(
    sink: Running, kind: str, body: str, packed: bool
) -> None:
    content = gzip.compress(body.encode(), mtime=0) if packed else body.encode()
    headers = {"Content_Encoding": "gzip"} if packed else {}
    assert sink.post(content, Content_Type=kind, **headers)[0] == 200
    assert sink.rows() == [row(1), row(2)]


def test_one_plain_object_is_understood(sink: Running) -> None:
    assert sink.post(message(1)) == (200, {"stored": 1, "duplicates": 0})
    assert sink.rows() == [row(1)]


def test_an_empty_array_is_understood(sink: Running) -> None:
    assert sink.post([]) == (200, {"stored": 0, "duplicates": 0})


def test_a_connection_is_kept_for_the_next_request(sink: Running) -> None:
    sink.post(message(1))
    kept = sink.client.sock
    sink.post(b"{")  # neither does a malformed body end it
    sink.post(message(2))
    assert kept is not None
    assert sink.client.sock is kept


# What it refuses.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"17",
        b'["text"]',
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b"[{}]",
        json.dumps(message(1) | {"id": 7}).encode(),
        json.dumps(message(1) | {"name": None}).encode(),
        json.dumps(message(1) | {"value": "1.5"}).encode(),
        json.dumps(message(1) | {"value": True}).encode(),
        json.dumps(message(1) | {"value": float("nan")}).encode(),
        json.dumps(message(1)).replace("1.5", "1e999").encode(),
        json.dumps(message(1)).replace("1.5", "9" * 400).encode(),
        json.dumps(message(1) | {"name": "\ud800"}).encode(),
        json.dumps([message(1), message(2) | {"value": None}]).encode(),
        json.dumps(message(1)).encode()[:-1],
    ],
)
@pytest.mark.parametrize("kind", [JSON, NDJSON])
def test_a_malformed_body_is_answered_400_and_nothing_of_it_is_stored(
    shared: Running, kind: str, body: bytes
) -> None:
    before = shared.rows()
    status, answer = shared.post(body, Content_Type=kind)
    if kind == NDJSON and not body:
        assert (status, answer["stored"]) == (200, 0)  # no line, no message
    else:
        assert status == 400
        assert answer["error"]
    assert shared.rows() == before
    assert shared.post([])[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"not gzip",
        gzip.compress(json.dumps(message(1)).encode() + b"\n")[:-1],
        gzip.compress(json.dumps(message(1)).encode() + b"\n") + gzip.compress(b"more"),
        gzip.compress(json.dumps(message(1)).encode() + b"\n" + b" " * MAX_BYTES),
    ],
)
def test_a_malformed_gzip_stream_is_answered_400(shared: Running, body: bytes) -> None:
    before = shared.rows()
    status, answer = shared.post(body, Content_Type=NDJSON, Content_Encoding="gzip")
    assert status == 400
    assert answer["error"]
    assert shared.rows() == before


@pytest.mark.parametrize("length", [str(MAX_BYTES + 1), "9" * 5000, "-1", "twelve", "\xb2"])
def test_a_body_without_a_sensible_length_is_not_read(shared: Running, length: str) -> None:
    status, _ = shared.post(b"", Content_Length=length)
    assert status == 400
    assert shared.post([])[0] == 200  # on a new connection


def test_clients_that_vanish_are_no_news(sink: Running) -> None:
    for sent in (b"", b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n[{", b"POST /"):
        with socket.create_connection(("127.0.0.1", sink.port), DEADLINE) as client:
            client.sendall(sent)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert sink.post(message(1))[0] == 200
    status, _, err = sink.end()
    assert (status, err) == (0, "")


def test_a_silent_client_does_not_hold_a_thread_for_ever(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exchange, "timeout", 0.05)
    with closing(sqlite3.connect(database, check_same_thread=False)) as store:
        store.executescript(SCHEMA)
        with Sink("127.0.0.1", 0, store) as sink:
            thread = threading.Thread(target=sink.serve_forever, args=(0.02,))
            thread.start()
            with socket.create_connection(sink.server_address, DEADLINE) as client:
                client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n[{")
                assert client.recv(1) == b""
            sink.shutdown()
            thread.join()


def test_what_cannot_be_stored_is_answered_503(sink: Running, database: Path) -> None:
    sink.post(message(1))
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("ALTER TABLE message RENAME TO elsewhere")
        status, answer = sink.post(message(2))
        assert status == 503
        assert "cannot store" in answer["error"]
        other.execute("ALTER TABLE elsewhere RENAME TO message")
    assert sink.post(message(2)) == (200, {"stored": 1, "duplicates": 0})


# How it starts and ends.


def test_it_says_where_it_listens_and_what_it_writes(sink: Running, database: Path) -> None:
    where = f"http://127.0.0.1:{sink.port}/telemetry"
    assert sink.greeting == f"sink: listening on {where}, storing in {database}\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_summary_and_status_0(sink: Running, signum: int) -> None:
    sink.post([message(1), message(2)])
    sink.post(message(2))
    assert sink.end(signum) == (0, "sink: stopped; 2 messages, 1 duplicates\n", "")
    assert sink.rows() == [row(1), row(2)]


def test_a_stop_waits_for_no_open_connection(sink: Running) -> None:
    with socket.create_connection(("127.0.0.1", sink.port), DEADLINE) as idle:
        idle.sendall(b"POST / HTTP/1.1\r\n")
        assert sink.end()[0] == 0


def test_a_port_in_use_is_one_line_with_its_hint(database: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SensorNodeError) as raised:
            serve("127.0.0.1", port, database)
    assert str(raised.value).startswith(f"sink: cannot use --host 127.0.0.1 --port {port}: ")
    assert str(raised.value).endswith("Address already in use; choose another")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 65_536), ("host.invalid", 0)])
def test_an_address_that_cannot_be_is_one_line(database: Path, host: str, port: int) -> None:
    with pytest.raises(SensorNodeError, match=r"^sink: cannot use --host .*; choose another$"):
        serve(host, port, database)


def test_a_file_that_is_no_database_is_one_line_with_its_hint(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a database " * 1000)
    for file in (text, tmp_path, tmp_path / "nowhere" / "sink.db"):
        with pytest.raises(SensorNodeError, match=r"^sink: cannot use --db ") as raised:
            serve("127.0.0.1", 0, file)
        assert str(file) in str(raised.value)
    assert text.read_text() == "not a database " * 1000


def test_the_agents_own_database_is_not_taken_for_a_sinks(database: Path) -> None:
    with closing(sqlite3.connect(database)) as agent:
        agent.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, name TEXT, value REAL)")
    before = database.read_bytes()
    with pytest.raises(SensorNodeError, match=r"cannot use --db"):
        serve("127.0.0.1", 0, database)
    with closing(sqlite3.connect(database)) as agent:
        assert agent.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    assert os.path.getsize(database) == len(before)
