"""A hostile sink: whatever it answers, memory is bounded, nothing is followed, nobody's terminal
is steered, and no reading is lost."""

import gzip
import itertools
import socket
from pathlib import Path

import pytest
from checker import judge
from crash.node import Node
from faults.hostile import ESCAPES, MIB, HostileSink, assert_harmless
from sinks import SinkProcess

MOST_GROWTH = 16 * MIB
STATUS = b"HTTP/1.1 503 Later\r\n"


def endless(part):
    return itertools.chain([STATUS], itertools.repeat(part))


def with_body(body, *headers):
    lines = [*headers, b"Content-Length: %d" % len(body), b"", body]
    return [STATUS + b"\r\n".join(lines)]


ATTACKS = {
    "10 GB body": lambda _: itertools.chain(
        [STATUS, b"Content-Length: 10737418240\r\n\r\n"], itertools.repeat(b"\0" * MIB, 10240)
    ),
    "endless chunks": lambda _: itertools.chain(
        [STATUS, b"Transfer-Encoding: chunked\r\n\r\n"],
        itertools.repeat(b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    ),
    "endless chunk extension": lambda _: itertools.chain(
        [STATUS, b"Transfer-Encoding: chunked\r\n\r\n1;"], itertools.repeat(b"x" * MIB)
    ),
    "endless trailers": lambda _: itertools.chain(
        [STATUS, b"Transfer-Encoding: chunked\r\n\r\n0\r\n"], itertools.repeat(b"a: b\r\n" * 10000)
    ),
    "gzip bomb": lambda _: with_body(BOMB, b"Content-Encoding: gzip"),
    "header of 1 MB": lambda _: [STATUS, b"A: " + b"x" * MIB + b"\r\n\r\n"],
    "100,000 headers": lambda _: [STATUS, b"A: b\r\n" * 100_000, b"\r\n"],
    "endless headers": lambda _: endless(b"Name: value\r\n" * 1000),
    "endless header": lambda _: itertools.chain([STATUS, b"A: "], itertools.repeat(b"x" * MIB)),
    "endless status line": lambda _: itertools.repeat(b"HTTP/1.1 503 " + b"x" * MIB),
    "endless interim answers": lambda _: itertools.repeat(b"HTTP/1.1 100 Go on\r\n\r\n" * 1000),
    "cookies": lambda _: with_body(b"", b"Set-Cookie: a=" + b"x" * 60_000),
}
BOMB = gzip.compress(b"unpacked" * 40 * MIB, 1)


def peak_bytes(pid):
    """The most memory that the process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.fixture
def attacked(tmp_path):
    """A node that runs with a hostile sink, and a good one for afterwards."""
    options = {"timeout": "1s", "batch_size": 20}
    with (
        HostileSink() as hostile,
        SinkProcess(tmp_path) as sink,
        Node(
            tmp_path / "node",
            sink={"url": hostile.url, **options},
            retry={"initial_delay": "20ms", "max_delay": "100ms"},
            process={"senders": 1},
        ) as node,
    ):
        node.start()
        yield node, hostile, sink


def assert_all_arrives(node, sink):
    node.configure(sink={"url": sink.url})
    node.run("reload")
    node.await_delivered()
    node.stop()
    verdict = judge(node.database, sink.database)
    verdict.assert_good()
    assert (verdict.dead, verdict.evicted) == (0, 0), verdict


def test_no_answer_takes_more_memory_than_an_answer_needs(attacked):
    node, hostile, sink = attacked
    hostile.attack(lambda _: with_body(b"busy"), times=3)
    pids = node.pids()
    before = {name: peak_bytes(pid) for name, pid in pids.items()}
    for name, attack in ATTACKS.items():
        hostile.attack(attack)
        for process, pid in pids.items():
            grown = peak_bytes(pid) - before[process]
            assert grown < MOST_GROWTH, f"{name}: {process} has grown by {grown / MIB:.1f} MiB"
        assert "unpacked" not in node.one("SELECT reason FROM sink"), name
    assert node.pids() == pids, "nobody has died"
    assert_all_arrives(node, sink)


def test_no_redirect_is_followed_and_no_text_of_the_sink_reaches_the_terminal_raw(attacked):
    node, hostile, sink = attacked
    with socket.create_server(("127.0.0.1", 0)) as internal:
        internal.setblocking(False)
        port = internal.getsockname()[1]
        targets = ["file:///etc/passwd", f"http://127.0.0.1:{port}/", f"//127.0.0.1:{port}/"]
        for status, target in zip((301, 307, 308), targets, strict=True):
            line = f"HTTP/1.1 {status} Elsewhere\r\nLocation: {target}\r\n"
            hostile.attack(lambda _, line=line: [line.encode() + b"Content-Length: 0\r\n\r\n"])
        with pytest.raises(BlockingIOError):
            internal.accept()
    escapes = ESCAPES.encode("utf-8", "replace")
    for status in (200, 307, 403, 500):
        # A 200 with a web page is a captive portal.
        body = b"<html>" + escapes
        answer = b"HTTP/1.1 %d %s\r\nLocation: http://h/%s\r\nContent-Length: %d\r\n\r\n%s"
        said = answer % (status, escapes, escapes, len(body), body)
        hostile.attack(lambda _, said=said: [said])
        assert_harmless(node.run("status").stdout, status)
    for command in ("status --json", "messages", "show 1", "history", "history --json"):
        done = node.run(*command.split())
        assert_harmless(done.stdout + done.stderr, command)
    assert "owned" in node.run("status").stdout, "what is harmless of it is shown"
    assert_harmless(node.log(), "the log")
    assert_all_arrives(node, sink)
