"""One request and all that networks, proxies, TLS and files can do to it, on real sockets."""

import base64
import contextlib
import errno
import gc
import grp
import gzip
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sensor_node import __version__
from sensor_node.config.loader import SinkConfig
from sensor_node.config.schema import options_of
from sensor_node.core.clock import Moment
from sensor_node.core.model import Verdict
from sensor_node.delivery.client import HttpTelemetryClient
from sensor_node.delivery.connection import SinkConnection, TrackedResponse
from sensor_node.delivery.credentials import Credentials
from sensor_node.delivery.race import Race, in_turn
from sensor_node.delivery.signature import signatures

DEFAULTS = {
    option.name: option.kind.parse(option.default) for option in options_of("sink").values()
}
SINK = SinkConfig(**{**DEFAULTS, "timeout": 10.0})
JSON_LINES = options_of("sink")["format"].kind.parse("json-lines")
AT_MOST_ONCE = {"delivery": "at-most-once"}
TCP = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
SHORT = 0.3  # a deadline that is meant to be hit
PATIENCE = 5.0  # a request that was cut at SHORT is over long before this
KEY = '"key"'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nlater"


class Clock:
    """A clock that stands until it is turned."""

    monotonic = 1000.0

    def now(self):
        return Moment(self.monotonic, 1_795_419_878.0, self.monotonic)


class Conversation:
    """The sink's side of one connection."""

    def __init__(self, connection, sink):
        self.connection = connection
        self.sink = sink

    def request(self):
        """Read one request and put it on record; returns its head."""
        head = self._until(b"\r\n\r\n")
        length = [line for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        body = self._exactly(int(length[0].split(":")[1]) if length else 0)
        self.sink.requests.append((head, body))
        return head

    def answer(self, *answers):
        """Answer one request after the other."""
        for each in answers:
            self.request()
            self.connection.sendall(each)

    def drip(self, prefix=b"", drop=b"x"):
        """Answer so slowly that no timeout of a socket notices, until the client has gone."""
        self.connection.sendall(prefix)
        while not self.sink.closing.wait(0.02):
            self.connection.sendall(drop)

    def wait_for_close(self):
        with contextlib.suppress(OSError):
            while self.connection.recv(65_536):
                pass

    def reset(self):
        """RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()

    def _until(self, end):
        found = b""
        while not found.endswith(end):
            found += self._exactly(1)
        return found.decode()

    def _exactly(self, count):
        found = b""
        while len(found) < count:
            if not (piece := self.connection.recv(count - len(found))):
                raise EOFError
            found += piece
        return found


class RawSink:
    """Listens; each connection is played by the next script, each request is put on record."""

    def __init__(self, *scripts, tls=None):
        self.scripts = list(scripts)
        self.tls = tls
        self.requests = []
        self.conversations = []
        self.closing = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/telemetry"

    @property
    def connections(self):
        return len(self.conversations)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for conversation in self.conversations:
            with contextlib.suppress(OSError):
                conversation.connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(PATIENCE)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                script = self.scripts.pop(0)
                conversation = Conversation(connection, self)
                self.conversations.append(conversation)
                thread = threading.Thread(target=self._play, args=(script, conversation))
                self.threads.append(thread)
                thread.start()

    def _play(self, script, conversation):
        with contextlib.suppress(OSError, EOFError):
            if self.tls:
                conversation.connection = self.tls.wrap_socket(
                    conversation.connection, server_side=True
                )
            script(conversation)
        conversation.connection.close()


def keep_answering(*answers):
    return lambda conversation: conversation.answer(*answers)


def silent(conversation):
    conversation.request()
    conversation.wait_for_close()


def store_and_reset(conversation):
    conversation.request()
    conversation.reset()


def reset_half_read(conversation):
    conversation.connection.recv(1)
    conversation.reset()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def connect(clock):
    """Makes clients and closes them."""
    clients = []

    def make(url, **options):
        client = HttpTelemetryClient(replace(SINK, url=url, **options), clock)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture(scope="session")
def pems(tmp_path_factory):
    """Self-signed certificates with their keys: of the sink, of another host, of a client."""
    directory = tmp_path_factory.mktemp("pems")
    names = {"sink": "IP:127.0.0.1", "other": "DNS:other.example", "client": "DNS:edge-01"}
    for name, alternative in names.items():
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        command += f" -subj /CN={name} -addext subjectAltName={alternative} -days 2"
        files = ["-keyout", directory / f"{name}.key", "-out", directory / f"{name}.pem"]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return directory


def server_tls(pems, name="sink", client=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pems / f"{name}.pem", pems / f"{name}.key")
    if client:
        context.load_verify_locations(pems / f"{client}.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def open_sockets_to(port):
    """Inodes of the sockets that a process holds, by /proc/net/tcp; those of none have inode 0."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[9] for row in rows if int(row[2].split(":")[1], 16) == port and row[9] != "0"]


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# The request


def test_a_request_carries_the_headers_of_the_wire_contract(connect):
    with RawSink(keep_answering(OK)) as sink:
        outcome = connect(sink.url).post(b"[1]", KEY)
    [(head, body)] = sink.requests
    assert outcome.verdict is Verdict.DELIVERED
    assert outcome.detail == "200 OK"
    assert body == b"[1]"
    assert head.startswith("POST /telemetry HTTP/1.1\r\n")
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == KEY
    assert headers["User-Agent"] == f"sensor-node/{__version__}"
    assert headers["Content-Length"] == "3"
    assert headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in headers
    assert "Content-Encoding" not in headers
    assert "Transfer-Encoding" not in headers


def test_json_lines_say_so(connect):
    with RawSink(keep_answering(OK)) as sink:
        connect(sink.url, format=JSON_LINES).post(b"{}\n", KEY)
    assert "\r\nContent-Type: application/x-ndjson\r\n" in sink.requests[0][0]


def test_gzip_makes_the_same_bytes_of_the_same_body(connect, monkeypatch):
    with RawSink(keep_answering(OK, OK)) as sink:
        client = connect(sink.url, compression="gzip")
        client.post(b"[1]" * 1000, KEY)
        monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
        client.post(b"[1]" * 1000, KEY)
    [(head, first), (_, second)] = sink.requests
    assert "\r\nContent-Encoding: gzip\r\n" in head
    assert first == second
    assert first[4:8] == b"\0\0\0\0"  # mtime
    assert gzip.decompress(first) == b"[1]" * 1000


# One connection


def test_a_connection_is_kept_for_the_next_request(connect):
    with RawSink(keep_answering(OK, OK, OK)) as sink:
        client = connect(sink.url)
        verdicts = [client.post(b"[]", KEY).verdict for _ in range(3)]
    assert verdicts == [Verdict.DELIVERED] * 3
    assert sink.connections == 1


def test_what_is_wrong_is_the_last_answer_of_a_connection(connect):
    """After a surplus answer that nobody noticed, each is the one to the request before."""
    with RawSink(keep_answering(OK, OK, BUSY), keep_answering(OK)) as sink:
        client = connect(sink.url)
        verdicts = [client.post(b"[]", KEY).verdict for _ in range(4)]
    assert verdicts == [*[Verdict.DELIVERED] * 2, Verdict.TRY_LATER, Verdict.DELIVERED]
    assert sink.connections == 2


def test_a_connection_idle_for_20_seconds_is_not_used_again(connect, clock):
    with RawSink(keep_answering(OK, OK, BUSY), keep_answering(OK)) as sink:
        client = connect(sink.url)
        client.post(b"[1]", KEY)
        clock.monotonic += 19.9
        client.post(b"[2]", KEY)
        assert sink.connections == 1
        clock.monotonic += 20.0
        assert client.post(b"[3]", KEY).verdict is Verdict.DELIVERED
        assert sink.connections == 2


def test_connection_close_is_heeded(connect):
    closing = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with RawSink(keep_answering(closing), keep_answering(OK)) as sink:
        client = connect(sink.url)
        assert client.post(b"[1]", KEY).verdict is Verdict.DELIVERED
        assert client.post(b"[2]", KEY).verdict is Verdict.DELIVERED
    assert sink.connections == 2


@pytest.mark.parametrize("status", [100, 101, 102, 103, 199])
def test_interim_answers_are_passed_over_and_the_connection_is_kept(connect, status):
    interim = b"HTTP/1.1 %d Wait\r\nLink: </style.css>\r\n\r\n" % status
    with RawSink(keep_answering(interim * 3 + OK, interim + BUSY)) as sink:
        client = connect(sink.url)
        assert client.post(b"[A]", KEY).verdict is Verdict.DELIVERED
        assert client.post(b"[B]", KEY).detail == "503 Busy: later"
    assert sink.connections == 1


@pytest.mark.parametrize(
    "endless",
    [b"HTTP/1.1 102 Wait\r\n\r\n" * 10_000, b"HTTP/1.1 103 Wait\r\n" + b"A: b\r\n" * 100_000],
)
def test_interim_answers_without_end_are_no_answer(connect, endless):
    with RawSink(keep_answering(endless), keep_answering(OK)) as sink:
        client = connect(sink.url)
        outcome = client.post(b"[A]", KEY)
        assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, False)
        assert outcome.detail == "what came is not an HTTP answer"
        assert client.post(b"[B]", KEY).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("head", [b"", b"Not a header\r\nContent-Length: 0\r\n"])
def test_a_body_that_does_not_come_is_given_up_and_its_connection_too(connect, head):
    """The status line is the verdict."""

    def no_end(conversation):
        conversation.request()
        conversation.connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        conversation.wait_for_close()

    with RawSink(no_end, keep_answering(OK)) as sink:
        client = connect(sink.url, timeout=60.0)
        began = time.monotonic()
        assert client.post(b"[A]", KEY).verdict is Verdict.DELIVERED
        assert time.monotonic() - began < PATIENCE
        assert client.post(b"[B]", KEY).verdict is Verdict.DELIVERED
    assert sink.connections == 2


# Whose answer is it?


def surplus(seconds):
    """One more answer than was asked for, a moment later; then nothing is taken any more."""

    def play(conversation):
        if seconds is None:
            conversation.answer(OK + OK)
        else:
            conversation.answer(OK)
            time.sleep(seconds)
            conversation.connection.sendall(OK)
        conversation.answer(BUSY, BUSY)

    return play


@pytest.mark.parametrize("seconds", [None, 0.0, 0.05])
def test_a_surplus_answer_is_not_credited_to_the_next_batch(connect, seconds):
    with RawSink(surplus(seconds), keep_answering(BUSY), keep_answering(BUSY)) as sink:
        client = connect(sink.url)
        first = client.post(b"[A]", KEY)
        assert first.verdict is Verdict.DELIVERED
        time.sleep((seconds or 0.0) + 0.1)
        second = client.post(b"[B]", KEY)
        assert second.detail == "503 Busy: later"
        # It may have come with the answer, and then it is found with that.
        assert (first.surplus, second.surplus) in [(True, False), (False, True)]
        # Who sends more than it is asked for is not trusted with a kept connection any more.
        assert client.post(b"[C]", KEY).detail == "503 Busy: later"
    assert sink.connections == 3


def test_what_arrives_before_the_request_is_out_is_no_answer_to_it(connect, monkeypatch):
    """Between the looks: as the request begins, and after its head."""
    real = SinkConnection.is_spoilt
    for looks_that_miss in (1, 2):
        missed = []

        def look(line, missed=missed, most=looks_that_miss):
            missed.append(line)
            return len(missed) > most and real(line)

        with RawSink(surplus(0.0), keep_answering(BUSY)) as sink:
            client = connect(sink.url)
            assert client.post(b"[A]", KEY).verdict is Verdict.DELIVERED
            time.sleep(0.1)
            monkeypatch.setattr(SinkConnection, "is_spoilt", look)
            monkeypatch.setattr("urllib3.connectionpool.is_connection_dropped", lambda _: False)
            assert client.post(b"[B]", KEY).detail == "503 Busy: later"
            monkeypatch.undo()
        assert sink.connections == 2


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_proxy_that_says_why_it_closes_an_idle_connection_is_trusted(connect, version):
    said = f"HTTP/{version} 408 Request Timeout\r\nConnection: close\r\n\r\n".encode()

    def idle(conversation):
        conversation.answer(OK)
        conversation.connection.sendall(said)

    with RawSink(idle, keep_answering(OK, OK)) as sink:
        client = connect(sink.url)
        client.post(b"[A]", KEY)
        time.sleep(0.1)
        assert client.post(b"[B]", KEY).verdict is Verdict.DELIVERED
        assert client.post(b"[C]", KEY).verdict is Verdict.DELIVERED
    assert sink.connections == 2


def test_bytes_after_an_answer_are_not_read_as_the_next_one(connect):
    with RawSink(keep_answering(OK + OK), keep_answering(BUSY)) as sink:
        client = connect(sink.url)
        client.post(b"[A]", KEY)
        assert client.post(b"[B]", KEY).detail == "503 Busy: later"


@pytest.mark.parametrize(
    "status_line",
    [b"HTTP/1.1 600 Odd", b"HTTP/1.1 99 Odd", b"HTTP/1.1 abc", b"SSH-2.0-OpenSSH_9.2"],
)
def test_garbage_is_tried_later_on_another_connection(connect, status_line):
    garbage = status_line + b"\r\nContent-Length: 0\r\n\r\n"
    with RawSink(keep_answering(garbage), keep_answering(OK)) as sink:
        client = connect(sink.url)
        outcome = client.post(b"[A]", KEY)
        assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, False)
        assert not outcome.answered
        assert client.post(b"[B]", KEY).verdict is Verdict.DELIVERED
    assert sink.connections == 2


# A kept connection that is dead


def drop_second_request(conversation):
    conversation.answer(OK)
    conversation.request()


def reset_second_request(conversation):
    conversation.answer(OK)
    conversation.request()
    conversation.reset()


@pytest.mark.parametrize("script", [drop_second_request, reset_second_request])
def test_a_reset_on_a_kept_connection_is_repeated_once_and_says_nothing(connect, script):
    with RawSink(script, keep_answering(OK)) as sink:
        client = connect(sink.url)
        client.post(b"[A]", KEY)
        outcome = client.post(b"[B]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.DELIVERED, True)
    assert [body for _, body in sink.requests] == [b"[A]", b"[B]", b"[B]"]


def test_it_is_not_repeated_twice(connect):
    with RawSink(reset_second_request, store_and_reset, keep_answering(OK)) as sink:
        client = connect(sink.url)
        client.post(b"[A]", KEY)
        outcome = client.post(b"[B]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, False)
    assert sink.connections == 2


def test_a_refused_repeat_does_not_make_the_first_copys_fate_known(connect):
    with RawSink(reset_second_request, keep_answering(b"HTTP/1.1 400 No\r\n\r\n")) as sink:
        client = connect(sink.url)
        client.post(b"[A]", KEY)
        outcome = client.post(b"[B]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.REFUSED, False)


def test_a_torn_answer_on_a_kept_connection_is_not_repeated(connect):
    def torn(conversation):
        conversation.answer(OK)
        conversation.request()
        conversation.connection.sendall(b"HTTP/1.1 2")

    with RawSink(torn, keep_answering(OK)) as sink:
        client = connect(sink.url)
        client.post(b"[A]", KEY)
        outcome = client.post(b"[B]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, False)
    assert sink.connections == 1


@pytest.mark.parametrize("script", [store_and_reset, reset_half_read])
def test_a_reset_of_a_fresh_connection_leaves_the_fate_unknown(connect, script):
    """The first is told to the read of the answer, the second mostly to a write of the body."""
    with RawSink(script, keep_answering(OK)) as sink:
        outcome = connect(sink.url).post(b"[A]" * 1_000_000, KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, False)
    assert outcome.detail == "connection closed without a whole answer"
    assert not outcome.answered
    assert sink.connections == 1


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 400 No\r\nContent-Le"]
)
def test_an_answer_without_its_end_of_headers_is_none(connect, head):
    with RawSink(keep_answering(head)) as sink:
        outcome = connect(sink.url).post(b"[A]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, False)
    assert outcome.detail == "connection closed without a whole answer"
    assert not outcome.answered


def test_at_most_once_takes_a_new_connection_each_time_and_repeats_nothing(connect):
    with RawSink(drop_second_request, store_and_reset, keep_answering(OK)) as sink:
        client = connect(sink.url, **AT_MOST_ONCE)
        assert client.post(b"[A]", KEY).verdict is Verdict.DELIVERED
        assert not client.post(b"[B]", KEY).fate_known
        assert client.post(b"[C]", KEY).verdict is Verdict.DELIVERED
    assert [body for _, body in sink.requests] == [b"[A]", b"[B]", b"[C]"]


# The answer's body


def test_a_body_beyond_64_kib_is_not_read_and_its_connection_not_used_again(connect):
    def endless(conversation):
        conversation.answer(b"HTTP/1.1 500 Oops\r\nContent-Length: 10000000\r\n\r\n")
        conversation.connection.sendall(b"x" * 100_000)
        conversation.wait_for_close()

    with RawSink(endless, keep_answering(OK)) as sink:
        client = connect(sink.url)
        began = time.monotonic()
        outcome = client.post(b"[A]", KEY)
        assert time.monotonic() - began < PATIENCE
        assert outcome.detail == "500 Oops: " + "x" * 200
        assert outcome.answered
        assert client.post(b"[B]", KEY).verdict is Verdict.DELIVERED
    assert sink.connections == 2


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_a_torn_body_changes_nothing_about_the_verdict(connect, head):
    with RawSink(lambda each: each.answer(head + b"half"), keep_answering(OK)) as sink:
        client = connect(sink.url)
        outcome = client.post(b"[A]", KEY)
        assert (outcome.verdict, outcome.fate_known) == (Verdict.DELIVERED, True)
        assert client.post(b"[B]", KEY).verdict is Verdict.DELIVERED
    assert sink.connections == 2


def test_a_captive_portal_whose_page_is_torn_is_still_recognised(connect):
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n<html><title>Log in"
    with RawSink(keep_answering(page)) as sink:
        assert connect(sink.url).post(b"[A]", KEY).verdict is Verdict.MISCONFIGURED


def test_chunked_answers_are_read_and_their_connection_is_kept(connect):
    rest = b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n"
    good, bad = b"HTTP/1.1 200 Fine\r\n" + rest, b"HTTP/1.1 500 Oops\r\n" + rest
    with RawSink(keep_answering(good, bad)) as sink:
        client = connect(sink.url)
        assert client.post(b"[A]", KEY).detail == "200 Fine"
        assert client.post(b"[B]", KEY).detail == "500 Oops: first"
    assert sink.connections == 1


def test_a_redirect_is_not_followed_and_its_body_not_read_without_limit(connect):
    def endless(conversation):
        head = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 10000000\r\n\r\n"
        conversation.answer(head)
        conversation.connection.sendall(b"x" * 100_000)
        conversation.wait_for_close()

    with RawSink(endless) as sink:
        began = time.monotonic()
        outcome = connect(sink.url).post(b"[A]", KEY)
        assert time.monotonic() - began < PATIENCE
    assert outcome.verdict is Verdict.MISCONFIGURED
    assert "/elsewhere: put that into [sink] url" in outcome.hint
    assert len(sink.requests) == 1


def test_a_sinks_cookies_are_not_kept(connect):
    cookie = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    with RawSink(keep_answering(cookie, OK)) as sink:
        client = connect(sink.url)
        client.post(b"[A]", KEY)
        client.post(b"[B]", KEY)
    assert "Cookie" not in sink.requests[1][0]


# The deadline


def assert_cut(client, fate_known=False, by=""):
    """A request of this client ends at its deadline, and the next one works."""
    began = time.monotonic()
    outcome = client.post(b"[A]", KEY)
    assert time.monotonic() - began < PATIENCE
    assert outcome.verdict is Verdict.TRY_LATER
    assert outcome.detail == f"{by}timed out after {SHORT:g}s"
    assert outcome.fate_known is fate_known
    assert not outcome.answered


def drip_headers(conversation):
    conversation.request()
    conversation.drip(b"HTTP/1.1 200 OK\r\nX-Slow: ")


def drip_interim_answers(conversation):
    conversation.request()
    conversation.drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize("script", [silent, drip_headers, drip_interim_answers])
def test_a_sink_that_is_silent_or_drips_is_cut_at_the_deadline(connect, script):
    with RawSink(script, keep_answering(OK)) as sink:
        client = connect(sink.url, timeout=SHORT)
        assert_cut(client)
        assert client.post(b"[B]", KEY).verdict is Verdict.DELIVERED
    assert sink.connections == 2


def test_a_kept_connection_is_cut_at_the_deadline_too_and_not_repeated(connect):
    def drip_second(conversation):
        conversation.answer(OK)
        drip_headers(conversation)

    with RawSink(drip_second, keep_answering(OK)) as sink:
        client = connect(sink.url, timeout=SHORT)
        client.post(b"[A]", KEY)
        assert_cut(client)
    assert len(sink.requests) == 2


def test_the_repeat_on_a_new_connection_has_only_what_is_left_of_the_time(connect):
    with RawSink(reset_second_request, drip_headers) as sink:
        client = connect(sink.url, timeout=SHORT)
        client.post(b"[A]", KEY)
        assert_cut(client)
    assert sink.connections == 2


def test_a_sink_that_does_not_read_is_cut_at_the_deadline(connect):
    with RawSink(lambda conversation: conversation.sink.closing.wait()) as sink:
        client = connect(sink.url, timeout=SHORT)
        began = time.monotonic()
        outcome = client.post(b"x" * 50_000_000, KEY)
    assert time.monotonic() - began < PATIENCE
    assert outcome.detail == f"timed out after {SHORT:g}s"
    assert not outcome.fate_known


def test_a_dripping_body_is_cut_at_the_deadline_and_the_verdict_stands(connect):
    def drip_body(conversation):
        conversation.request()
        conversation.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")

    with RawSink(drip_body, keep_answering(OK)) as sink:
        client = connect(sink.url, timeout=SHORT)
        began = time.monotonic()
        outcome = client.post(b"[A]", KEY)
        assert time.monotonic() - began < PATIENCE
        assert (outcome.verdict, outcome.fate_known) == (Verdict.DELIVERED, True)
        assert client.post(b"[B]", KEY).verdict is Verdict.DELIVERED
    assert sink.connections == 2


def test_a_tls_handshake_is_cut_at_the_deadline(connect, pems):
    with RawSink(Conversation.wait_for_close) as sink:
        url = f"https://127.0.0.1:{sink.port}/"
        assert_cut(connect(url, timeout=SHORT, ca_file=str(pems / "sink.pem")), fate_known=True)


def test_a_dripping_tls_handshake_is_cut_at_the_deadline(connect, pems):
    with RawSink(lambda conversation: conversation.drip(b"\x16\x03\x03\x40\x00")) as sink:
        url = f"https://127.0.0.1:{sink.port}/"
        assert_cut(connect(url, timeout=SHORT, ca_file=str(pems / "sink.pem")), fate_known=True)


def test_a_dripping_answer_over_tls_is_cut_at_the_deadline(connect, pems):
    with RawSink(drip_headers, keep_answering(OK), tls=server_tls(pems)) as sink:
        client = connect(sink.url, timeout=SHORT, ca_file=str(pems / "sink.pem"))
        assert_cut(client)
        assert client.post(b"[B]", KEY).verdict is Verdict.DELIVERED


def test_silent_name_servers_do_not_hold_a_request_beyond_the_deadline(connect, monkeypatch):
    answered = threading.Event()
    lookups = []

    def getaddrinfo(*arguments, **options):
        lookups.append(arguments)
        answered.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    client = connect("http://sink.example/", timeout=SHORT)
    assert_cut(client, fate_known=True)
    assert_cut(client, fate_known=True)
    assert len(lookups) == 1  # threads do not pile up
    answered.set()


def test_an_address_that_swallows_packets_does_not_use_up_the_time_of_the_next(
    connect, monkeypatch
):
    """And once it is known which of them works, not even its head start."""
    begun = []
    enter = Race.enter
    monkeypatch.setattr(
        Race, "enter", lambda race, address: (begun.append(address), enter(race, address))
    )
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(RawSink(*3 * [keep_answering(OK)]))
        full, good = (*TCP, swallow_connections(stack)), (*TCP, ("127.0.0.1", sink.port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [full, good])
        client = connect(f"http://sink.example:{sink.port}/", timeout=60.0, **AT_MOST_ONCE)
        began = time.monotonic()
        for _ in range(3):
            assert client.post(b"[A]", KEY).verdict is Verdict.DELIVERED
        assert time.monotonic() - began < PATIENCE
    assert begun == [full, good, good, good]


def test_an_address_that_takes_connections_and_does_not_answer_does_not_come_first(
    connect, monkeypatch
):
    """Of a name whose addresses come in turns, one is half dead."""
    with RawSink(silent) as dead, RawSink(keep_answering(OK)) as sink:
        addresses = [(*TCP, ("127.0.0.1", dead.port)), (*TCP, ("127.0.0.1", sink.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        client = connect("http://sink.example/", timeout=SHORT)
        assert client.post(b"[A]", KEY).verdict is Verdict.TRY_LATER
        addresses.reverse()
        assert client.post(b"[A]", KEY).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("dead", [silent, store_and_reset, keep_answering(BUSY)])
def test_an_address_that_takes_connections_and_fails_comes_last(connect, monkeypatch, dead):
    """Something before it takes them, and what should answer is not there."""
    with RawSink(dead) as first, RawSink(dead) as second, RawSink(keep_answering(OK)) as sink:
        ports = [first.port, second.port, sink.port]
        addresses = [(*TCP, ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        client = connect("http://sink.example/", timeout=SHORT)
        verdicts = [client.post(b"[A]", KEY).verdict for _ in range(3)]
    assert verdicts == [Verdict.TRY_LATER, Verdict.TRY_LATER, Verdict.DELIVERED]


def test_a_lookup_that_fails_as_nobody_foresaw_is_tried_again(connect, monkeypatch):
    def fail(*_, **__):
        raise SystemError("a surprise")

    with RawSink(keep_answering(OK)) as sink:
        client = connect(sink.url)
        monkeypatch.setattr(socket, "getaddrinfo", fail)
        assert client.post(b"[A]", KEY).detail == "SystemError: a surprise"
        monkeypatch.undo()
        assert client.post(b"[A]", KEY).verdict is Verdict.DELIVERED


def test_what_each_address_answered_is_said(connect, monkeypatch):
    with contextlib.ExitStack() as stack:
        full, closed = swallow_connections(stack), ("127.0.0.1", unused_port())
        addresses = [(*TCP, full), (*TCP, closed)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        client = connect("http://sink.example/", timeout=1.0)
        outcome = client.post(b"[A]", KEY)
        assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, True)
        assert outcome.detail == "127.0.0.2: no answer; 127.0.0.1: connection refused"
        # Where all say the same, that is it.
        addresses[0] = (*TCP, ("127.0.0.3", closed[1]))
        assert client.post(b"[A]", KEY).detail == "connection refused"
        addresses[:] = [(*TCP, full), (*TCP, full)]
        assert client.post(b"[A]", KEY).detail == "timed out after 1s"


def test_families_take_turns_and_the_address_that_worked_comes_first():
    v6 = [(socket.AF_INET6, *TCP[1:], (f"fe80::{number}", 80, 0, 1)) for number in (1, 2, 3)]
    v4 = [(*TCP, (f"192.0.2.{number}", 80)) for number in (1, 2)]
    assert in_turn([*v6, *v4], {}) == [v6[0], v4[0], v6[1], v4[1], v6[2]]
    assert in_turn([*v6, *v4], {v4[1]: -1}) == [v4[1], v6[0], v4[0], v6[1], v6[2]]
    assert in_turn([*v6, *v4], {v6[0]: 2, v4[0]: 1}) == [v6[1], v4[1], v6[2], v4[0], v6[0]]
    assert in_turn([*v6, *v4], {(*TCP, ("192.0.2.9", 80)): -1}) == in_turn([*v6, *v4], {})


@pytest.mark.parametrize("zone", ["%25lo", "%lo"])
def test_the_zone_of_a_link_local_address_is_for_this_machine_alone(connect, monkeypatch, zone):
    asked = []
    real = socket.getaddrinfo

    def getaddrinfo(host, *_, **__):
        asked.append(host)
        return real("127.0.0.1", sink.port, type=socket.SOCK_STREAM)

    with RawSink(keep_answering(OK)) as sink:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        client = connect(f"http://[fe80::1{zone}]:{sink.port}/telemetry")
        assert client.post(b"[A]", KEY).verdict is Verdict.DELIVERED
        assert asked == ["fe80::1%lo"]
        assert f"Host: [fe80::1]:{sink.port}\r\n" in sink.requests[0][0]


def swallow_connections(stack):
    """An address whose backlog is full: attempts to connect are not even refused."""
    listener = stack.enter_context(socket.create_server(("127.0.0.2", 0), backlog=0))
    for _ in range(4):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(listener.getsockname())
    return listener.getsockname()


# Before a byte was written


def test_a_refused_connection_is_surely_not_delivered(connect):
    outcome = connect(f"http://127.0.0.1:{unused_port()}/").post(b"[A]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, True)
    assert (outcome.detail, outcome.hint) == ("connection refused", "")
    assert not outcome.answered


@pytest.mark.parametrize(
    ("errno", "detail"),
    [
        (socket.EAI_NONAME, "name not found: sink.example"),
        (socket.EAI_AGAIN, "name not found: sink.example (try again)"),
    ],
)
def test_a_name_that_is_not_found_is_surely_not_delivered(connect, monkeypatch, errno, detail):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(errno, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    outcome = connect("http://sink.example/").post(b"[A]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, True)
    assert outcome.detail == detail


def test_a_name_with_an_overlong_part_is_not_found(connect):
    outcome = connect(f"http://{'x' * 64}.example/").post(b"[A]", KEY)
    assert outcome.fate_known
    assert "x" * 64 in outcome.detail


@pytest.mark.parametrize(
    ("number", "detail", "hint"),
    [
        (errno.EHOSTUNREACH, "no route to host", ""),
        # As by a balancer that has nobody to give the connection to.
        (errno.ECONNRESET, "connection reset by peer", ""),
        (errno.EMFILE, "too many open files", "LimitNOFILE"),
        (errno.EINVAL, "invalid argument", "[fe80::1%25eth0]"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_why_nobody_can_be_connected_is_said_in_words(
    connect, monkeypatch, scheme, number, detail, hint
):
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: number)
    outcome = connect(f"{scheme}://127.0.0.1/").post(b"[A]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, True)
    assert outcome.detail == detail
    assert hint in outcome.hint


def test_the_hint_of_too_many_threads_is_not_the_sinks(connect, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    client = connect("http://127.0.0.1/")
    monkeypatch.setattr("threading.Thread.start", refuse)
    for _ in range(2):
        outcome = client.post(b"[A]", KEY)
        assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, True)
        assert "TasksMax" in outcome.hint
    with pytest.raises(OSError):
        connect("http://127.0.0.1/")


# TLS


def test_a_repaired_ca_store_of_the_system_is_noticed(connect, pems, tmp_path, monkeypatch):
    store = tmp_path / "ca-certificates.crt"
    shutil.copy(pems / "other.pem", store)
    monkeypatch.setattr("sensor_node.delivery.credentials.DEFAULT_CA_BUNDLE_PATH", str(store))
    with RawSink(silent, keep_answering(OK), tls=server_tls(pems, "sink")) as sink:
        client = connect(sink.url)
        assert str(store) in client.files
        assert client.post(b"[A]", KEY).verdict is Verdict.MISCONFIGURED
        replace_file(store, (pems / "sink.pem").read_bytes())
        assert client.post(b"[A]", KEY).verdict is Verdict.DELIVERED


def test_a_sink_that_speaks_no_tls_of_today_is_told_by_the_version(connect, pems):
    old = server_tls(pems, "sink")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with RawSink(silent, tls=old) as sink:
        outcome = connect(sink.url, ca_file=str(pems / "sink.pem")).post(b"[A]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, True)
    assert outcome.detail.startswith("TLS failed: ")
    assert "TLS 1.2 or newer" in outcome.hint


def test_an_untrusted_certificate_is_misconfigured(connect, pems):
    with RawSink(keep_answering(OK), tls=server_tls(pems)) as sink:
        outcome = connect(sink.url).post(b"[A]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.MISCONFIGURED, True)
    assert outcome.detail.startswith("certificate not trusted: self")
    assert "ca_file" in outcome.hint
    assert "clock" in outcome.hint
    assert sink.requests == []


def test_ca_file_replaces_what_is_trusted(connect, pems, monkeypatch):
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(pems / "sink.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(pems / "sink.pem"))
    scripts = [keep_answering(OK, OK), keep_answering(OK)]
    with RawSink(*scripts, tls=server_tls(pems)) as sink:
        trusting = connect(sink.url, ca_file=str(pems / "sink.pem"))
        assert trusting.post(b"[A]", KEY).verdict is Verdict.DELIVERED
        assert trusting.post(b"[B]", KEY).verdict is Verdict.DELIVERED
        assert sink.connections == 1
        other = connect(sink.url, ca_file=str(pems / "other.pem"))
        assert other.post(b"[A]", KEY).verdict is Verdict.MISCONFIGURED


def test_a_certificate_of_another_host_is_misconfigured(connect, pems):
    with RawSink(keep_answering(OK), tls=server_tls(pems, "other")) as sink:
        outcome = connect(sink.url, ca_file=str(pems / "other.pem")).post(b"[A]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.MISCONFIGURED, True)
    assert outcome.detail.startswith("certificate not trusted: ")
    assert sink.requests == []


def test_a_changed_ca_file_is_picked_up(connect, pems, tmp_path):
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes((pems / "other.pem").read_bytes())
    with RawSink(keep_answering(OK), keep_answering(OK), tls=server_tls(pems)) as sink:
        client = connect(sink.url, ca_file=str(ca_file))
        assert client.post(b"[A]", KEY).verdict is Verdict.MISCONFIGURED
        replace_file(ca_file, (pems / "sink.pem").read_bytes())
        assert client.post(b"[B]", KEY).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("together", [False, True])
def test_a_client_certificate_is_shown(connect, pems, tmp_path, together):
    options = {"cert_file": str(pems / "client.pem"), "key_file": str(pems / "client.key")}
    if together:
        both = tmp_path / "both.pem"
        both.write_bytes((pems / "client.pem").read_bytes() + (pems / "client.key").read_bytes())
        options = {"cert_file": str(both)}
    with RawSink(keep_answering(OK), tls=server_tls(pems, client="client")) as sink:
        client = connect(sink.url, ca_file=str(pems / "sink.pem"), **options)
        assert client.post(b"[A]", KEY).verdict is Verdict.DELIVERED


def test_a_client_certificate_that_the_sink_misses_is_tried_later(connect, pems):
    with RawSink(keep_answering(OK), tls=server_tls(pems, client="client")) as sink:
        outcome = connect(sink.url, ca_file=str(pems / "sink.pem")).post(b"[A]", KEY)
    assert outcome.verdict is Verdict.TRY_LATER


def test_a_sink_that_speaks_no_tls_is_tried_later_and_surely_not_delivered(connect, pems):
    def plain(conversation):
        conversation.connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        conversation.wait_for_close()

    with RawSink(plain) as sink:
        url = f"https://127.0.0.1:{sink.port}/"
        outcome = connect(url, ca_file=str(pems / "sink.pem")).post(b"[A]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, True)
    assert outcome.detail.startswith("TLS failed: ")
    assert "[sink] url" in outcome.hint


@pytest.mark.parametrize("option", ["ca_file", "cert_file", "key_file"])
@pytest.mark.parametrize("content", [None, b"", b"\0junk\xff", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_missing_or_malformed_certificate_file_is_misconfigured(
    connect, pems, tmp_path, option, content
):
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_bytes(content)
    names = {"ca_file": "sink.pem", "cert_file": "client.pem", "key_file": "client.key"}
    options = {name: str(pems / each) for name, each in names.items()} | {option: str(file)}
    outcome = connect("https://127.0.0.1:1/", **options).post(b"[A]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (Verdict.MISCONFIGURED, True)
    assert str(file) in outcome.detail
    assert outcome.hint


def test_an_encrypted_key_is_misconfigured_and_nobody_is_asked_for_a_password(
    connect, pems, tmp_path
):
    key = tmp_path / "encrypted.key"
    command = ["openssl", "pkey", "-in", pems / "client.key", "-aes256", "-passout", "pass:x"]
    subprocess.run([*command, "-out", key], check=True, capture_output=True)
    options = {"cert_file": str(pems / "client.pem"), "key_file": str(key)}
    outcome = connect("https://127.0.0.1:1/", **options).post(b"[A]", KEY)
    assert outcome.verdict is Verdict.MISCONFIGURED
    assert str(key) in outcome.detail


# The proxy


def through(conversation, tls, *answers):
    """Play the proxy, then, with TLS, the sink behind it."""
    head = conversation.request()
    conversation.connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    conversation.connection = tls.wrap_socket(conversation.connection, server_side=True)
    conversation.answer(*answers)
    return head


def test_https_goes_through_the_proxy_in_a_tunnel_that_is_kept(connect, pems):
    tls = server_tls(pems, "other")
    closing = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    scripts = [lambda each: through(each, tls, OK, closing), lambda each: through(each, tls, OK)]
    with RawSink(*scripts) as proxy:
        client = connect(
            "https://other.example/telemetry", proxy=proxy.url, ca_file=str(pems / "other.pem")
        )
        outcomes = [client.post(b"[%d]" % each, KEY) for each in range(3)]
    assert [outcome.verdict for outcome in outcomes] == [Verdict.DELIVERED] * 3
    heads = [head.split("\r\n")[0] for head, _ in proxy.requests]
    connect_line = heads[0]
    assert connect_line.startswith("CONNECT other.example:443 HTTP/1.")
    assert heads == [connect_line, *["POST /telemetry HTTP/1.1"] * 2, *heads[:2]]


def test_http_goes_to_the_proxy_with_the_whole_url(connect):
    with RawSink(keep_answering(OK)) as proxy:
        client = connect("http://sink.example/telemetry", proxy=f"http://127.0.0.1:{proxy.port}")
        assert client.post(b"[A]", KEY).verdict is Verdict.DELIVERED
    assert proxy.requests[0][0].startswith("POST http://sink.example/telemetry HTTP/1.1\r\n")


def test_a_proxy_may_speak_tls_and_have_an_ipv6_address(connect, pems, monkeypatch):
    asked = []
    scripts = [keep_answering(OK), silent]
    with RawSink(*scripts, tls=server_tls(pems, "other")) as proxy:

        def getaddrinfo(host, *_, **__):
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", proxy.port))]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        options = {"ca_file": str(pems / "other.pem")}
        for host in ("other.example", "[::1]"):
            client = connect("http://sink.example/", proxy=f"https://{host}:1", **options)
            verdict = client.post(b"[A]", KEY).verdict
            assert verdict is (Verdict.DELIVERED if "other" in host else Verdict.MISCONFIGURED)
    assert asked == ["other.example", "::1"]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(407, Verdict.MISCONFIGURED), (403, Verdict.MISCONFIGURED), (502, Verdict.TRY_LATER)],
)
def test_a_proxy_that_refuses_to_connect_has_surely_not_delivered(connect, pems, status, verdict):
    refusal = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()
    with RawSink(keep_answering(refusal)) as proxy:
        ca_file = str(pems / "sink.pem")
        client = connect("https://sink.example/", proxy=proxy.url, ca_file=ca_file)
        outcome = client.post(b"[A]", KEY)
    assert (outcome.verdict, outcome.fate_known) == (verdict, True)
    assert str(status) in outcome.detail
    assert ("proxy" in outcome.hint) is (verdict is Verdict.MISCONFIGURED)
    assert not outcome.answered


def test_refusals_of_a_proxy_leave_no_descriptor_open(connect, pems):
    refusal = b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n"
    with RawSink(*[keep_answering(refusal)] * 5) as proxy:
        client = connect("https://sink.example/", proxy=proxy.url, ca_file=str(pems / "sink.pem"))
        gc.disable()  # the collector would close what is forgotten, some time
        try:
            for _ in range(5):
                client.post(b"[A]", KEY)
            assert open_sockets_to(proxy.port) == []
        finally:
            gc.enable()


def test_a_proxy_that_is_away_is_named(connect):
    client = connect("http://sink.example/", proxy=f"http://127.0.0.1:{unused_port()}")
    outcome = client.post(b"[A]", KEY)
    assert (outcome.detail, outcome.fate_known) == ("proxy: connection refused", True)


def test_a_proxy_that_hangs_up_instead_of_connecting_is_named(connect, pems):
    with RawSink(lambda conversation: conversation.request()) as proxy:
        ca_file = str(pems / "sink.pem")
        outcome = connect("https://sink.example/", proxy=proxy.url, ca_file=ca_file).post(
            b"[A]", KEY
        )
    assert outcome.detail.startswith("proxy: connection ")
    assert outcome.fate_known


def test_a_proxy_that_is_silent_is_cut_at_the_deadline(connect, pems):
    with RawSink(silent) as proxy:
        ca_file = str(pems / "sink.pem")
        assert_cut(
            connect("https://sink.example/", proxy=proxy.url, ca_file=ca_file, timeout=SHORT),
            fate_known=True,
            by="proxy: ",
        )


def test_nothing_is_taken_from_the_environment(connect, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    nowhere = f"http://127.0.0.1:{unused_port()}"
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, nowhere)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    with RawSink(keep_answering(OK)) as sink:
        assert connect(sink.url).post(b"[A]", KEY).verdict is Verdict.DELIVERED
    assert "Authorization" not in sink.requests[0][0]


# Secrets


def replace_file(file, content):
    """As a careful writer does: never half of it, and another inode."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.rename(file)


def authorizations(sink):
    lines = [line for head, _ in sink.requests for line in head.split("\r\n")]
    return [line.partition(": ")[2] for line in lines if line.startswith("Authorization:")]


def test_a_changed_token_is_picked_up(connect, tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    with RawSink(keep_answering(OK, OK)) as sink:
        client = connect(sink.url, token_file=str(token))
        client.post(b"[A]", KEY)
        replace_file(token, b"  second  \n")
        client.post(b"[B]", KEY)
    assert authorizations(sink) == ["Bearer first", "Bearer second"]


def test_username_and_password_make_basic_authentication(connect, tmp_path):
    password = tmp_path / "password"
    password.write_text("pässword \n")
    with RawSink(keep_answering(OK)) as sink:
        client = connect(sink.url, username="edge", password_file=str(password))
        client.post(b"[A]", KEY)
    pair = base64.b64encode("edge:pässword ".encode()).decode()
    assert authorizations(sink) == [f"Basic {pair}"]


@pytest.mark.parametrize("option", ["token_file", "password_file"])
@pytest.mark.parametrize(
    "content", [None, b"", b"\n", b"two\nlines\n", b"a\0b", b"\xff", b"x" * 9000]
)
def test_a_missing_or_malformed_secret_is_misconfigured_until_it_is_mended(
    connect, tmp_path, option, content
):
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with RawSink(keep_answering(OK)) as sink:
        client = connect(sink.url, username="edge", **{option: str(file)})
        for _ in range(2):
            outcome = client.post(b"[A]", KEY)
            assert (outcome.verdict, outcome.fate_known) == (Verdict.MISCONFIGURED, True)
            assert outcome.detail.startswith(f"[sink] {option} {file}: ")
            assert "read again" in outcome.hint
        replace_file(file, b"good")
        assert client.post(b"[B]", KEY).verdict is Verdict.DELIVERED


def test_a_token_outside_ascii_is_misconfigured(connect, tmp_path):
    token = tmp_path / "token"
    token.write_text("tökén")
    assert (
        connect("http://127.0.0.1:1/", token_file=str(token)).post(b"[A]", KEY).verdict
        is Verdict.MISCONFIGURED
    )


def test_a_pipe_in_place_of_a_secret_keeps_nobody_waiting(connect, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    outcome = connect("http://127.0.0.1:1/", token_file=str(tmp_path / "pipe")).post(b"[A]", KEY)
    assert outcome.verdict is Verdict.MISCONFIGURED


def test_a_secret_that_the_sink_repeats_is_not_shown(connect, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cr3t")
    echo = b"HTTP/1.1 302 not s3cr3t\r\nLocation: /s3cr3t\r\nContent-Length: 22\r\n\r\n"
    with RawSink(keep_answering(echo + b"not for Bearer s3cr3t!")) as sink:
        outcome = connect(sink.url, token_file=str(token)).post(b"[A]", KEY)
    assert "not for Bearer ***!" in outcome.detail
    assert "s3cr3t" not in repr(outcome)


@pytest.mark.parametrize(
    "written", ["a/b+<c>", "a\\/b+<c>", "a/b+&lt;c&gt;", "a%2Fb%2B%3Cc%3E", "a/\0b\x1b+<c>"]
)
def test_a_secret_is_known_however_the_sink_writes_it(tmp_path, written):
    token = tmp_path / "token"
    token.write_text("a/b+<c>")
    sink = SimpleNamespace(token_file=str(token), password_file="", username="")
    credentials = Credentials(sink)
    credentials.authorization()
    assert credentials.mask(f"no {written}!") == "no ***!"


def test_a_signature_tells_a_changed_a_removed_and_a_new_file(tmp_path):
    file = tmp_path / "file"

    def seen():
        return signatures([str(file)])[str(file)]

    every = [seen()]
    assert every == [None]
    changes = (
        lambda: file.write_bytes(b"a"),
        lambda: file.write_bytes(b"bc"),
        lambda: replace_file(file, b"cd"),
        lambda: file.chmod(0o640),
        lambda: os.chown(file, os.geteuid(), os.getegid()),
        file.unlink,
    )
    for change in changes:
        time.sleep(0.02)  # the kernel's clock for files ticks each 4 ms, or 10
        change()
        assert seen() != every[-1]
        every.append(seen())
        assert seen() == every[-1]


# What nobody foresaw


def test_a_key_log_that_cannot_be_opened_ends_no_process(connect, monkeypatch, caplog):
    monkeypatch.setenv("SSLKEYLOGFILE", "/nonexistent/keys")
    client = connect("https://127.0.0.1:1/")
    for _ in range(2):
        outcome = client.post(b"[A]", KEY)
        assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, True)
        assert "/nonexistent/keys" in outcome.detail
        assert "the log has the details" in outcome.hint
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    monkeypatch.delenv("SSLKEYLOGFILE")
    assert client.post(b"[A]", KEY).detail == "connection refused"


@pytest.mark.parametrize("written", [False, True])
def test_any_other_error_is_an_outcome_and_tells_no_secret(
    connect, tmp_path, monkeypatch, caplog, written
):
    (tmp_path / "token").write_text("sesame")
    surprise = RuntimeError("who said sesame?")

    def fail(*_):
        raise surprise

    with RawSink(keep_answering(OK), keep_answering(OK)) as sink:
        client = connect(sink.url, token_file=str(tmp_path / "token"), **AT_MOST_ONCE)
        where = (TrackedResponse, "begin") if written else (Race, "enter")
        monkeypatch.setattr(*where, fail)
        outcome = client.post(b"[A]", KEY)
        assert (outcome.verdict, outcome.fate_known) == (Verdict.TRY_LATER, not written)
        assert outcome.detail == "RuntimeError: who said ***?"
        assert "sesame" not in caplog.text
        monkeypatch.undo()
        assert client.post(b"[A]", KEY).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("error", [MemoryError, SystemError("error return without exception set")])
def test_no_memory_is_the_end_of_the_process(connect, monkeypatch, error):
    def fail(*_, **__):
        raise error

    client = connect("http://sink.example/")
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises((MemoryError, SystemError)):
        client.post(b"[A]", KEY)


# What may not be read


@contextlib.contextmanager
def nobody():
    """Root may read everything; whoever runs this as another user stays that."""
    was = os.getegid(), os.geteuid()
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was[1])
        os.setegid(was[0])


def test_who_may_not_read_a_secret_is_told_how_to_let_it(connect):
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        inner = Path(outer) / "inner"
        inner.mkdir()
        token = inner / "token"
        token.write_text("sesame")
        token.chmod(0)
        client = connect(f"http://127.0.0.1:{unused_port()}/", token_file=str(token))
        with nobody():
            group = grp.getgrgid(os.getegid()).gr_name
            outcome = client.post(b"[A]", KEY)
            assert outcome.detail == f"[sink] token_file {token}: Permission denied"
            assert f"chgrp {group} {token}; chmod g+r {token}" in outcome.hint
        inner.chmod(0)
        with nobody():
            assert f"chgrp {group} {inner}; chmod g+x {inner}" in client.post(b"[A]", KEY).hint
        inner.chmod(0o700)
        token.chmod(0o400)
        assert client.post(b"[A]", KEY).detail == "connection refused"


# Nothing is left behind


def test_a_closed_client_leaves_no_thread_and_no_connection(connect):
    def answer_and_wait(conversation):
        conversation.answer(OK)
        conversation.wait_for_close()

    with RawSink(answer_and_wait) as sink:
        client = connect(sink.url)
        client.post(b"[A]", KEY)
        client.close()
        guards = [thread for thread in threading.enumerate() if thread.name == "deadline"]
        for thread in (*guards, *sink.threads[1:]):
            thread.join(PATIENCE)
            assert not thread.is_alive()
