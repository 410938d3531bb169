"""Hostile sensors: what a command prints never ends the generator, is counted where it is no
reading, and steers nobody's terminal where it is one."""

import json

import pytest
from checker import judge
from crash.node import running
from faults.hostile import ESCAPES, MIB, assert_harmless
from waiting import wait_until

FAILED, NO_NUMBER = "sensor temperature failed", "sensor temperature gave nan or infinity"


def named(name):
    """As a program would print it that escapes nothing but what JSON cannot carry."""
    return json.dumps({"name": name, "value": 1}).encode()


REFUSED = {
    "a line of 10 MB": (b"1" * 10 * MIB, FAILED),
    "lines of 10 MB": (b"1\n" * 5 * MIB, FAILED),
    "invalid UTF-8": (b'{"name": "\xff\xfe", "value": 1}', FAILED),
    "NUL bytes": (b"1\0\n\0\0", FAILED),
    "ANSI escapes": (f"{ESCAPES}1".encode(), FAILED),
    "deep nesting": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, FAILED),
    "a huge integer": (b'{"value": ' + b"9" * 5000 + b"}", FAILED),
    "a large integer": (b'{"value": 1' + b"0" * 400 + b"}", FAILED),
    "a huge exponent in JSON": (b'{"value": 1e999}', NO_NUMBER),
    "a huge exponent": (b"-1e999", NO_NUMBER),
    "NaN": (b'{"value": NaN}', NO_NUMBER),
    "Infinity": (b'{"value": -Infinity}', NO_NUMBER),
    "a name of 129 bytes": (named("é" * 64 + "x"), FAILED),
    "a lone surrogate": (b'{"name": "\\ud800", "value": 1}', FAILED),
    "a huge timestamp": (b'{"value": 1, "timestamp": 1e300}', FAILED),
    "no output": (b"", FAILED),
}
ODD_NAMES = (
    ESCAPES,
    "a\0b",
    "\r\n0 is forged",
    "é" * 64,
    "'; DROP TABLE message",
)
DROPPED = "SELECT coalesce(max(n), 0) FROM dropped WHERE reason = ?"


@pytest.fixture
def sensed(tmp_path):
    """A node whose sensor prints what a file says, which is written as a whole."""
    file = tmp_path / "output"

    def says(output):
        file.with_suffix(".new").write_bytes(output)
        file.with_suffix(".new").rename(file)

    says(b"1")
    sensor = {"source": "command", "rate": 10, "command": f"cat {file}", "timeout": "5s"}
    with running(tmp_path, sensor=sensor) as (node, sink):
        yield node, sink, says


def test_no_output_ends_the_generator_and_what_is_no_reading_is_counted(sensed):
    node, sink, says = sensed
    node.await_captured(1)
    generator = node.pids()["generator"]
    for what, (output, reason) in REFUSED.items():
        before = node.one(DROPPED, reason)
        says(output)
        wait_until(lambda n=before, why=reason: node.one(DROPPED, why) > n, what=f"{what}: counted")
        says(b"1")
    node.await_captured(node.captured() + 1)
    assert node.pids()["generator"] == generator
    told = node.status()
    assert told["counts"]["dropped"] >= len(REFUSED)
    assert any(FAILED in problem["what"] for problem in told["problems"])
    assert_harmless(node.run("status").stdout + node.run("history").stdout, "commands")
    assert_harmless(node.log(), "the log")
    assert max(map(len, node.log().splitlines())) < 1000, "a line is a line"
    node.await_delivered()
    node.stop()
    verdict = judge(node.database, sink.database)
    verdict.assert_good()


def test_odd_names_arrive_as_they_are_and_are_shown_escaped(sensed):
    node, sink, says = sensed
    says(b"\n".join(map(named, ODD_NAMES)) + b'\n{"value": 1, "name": "x", "name": "twice"}')
    wait_until(lambda: node.one("SELECT count(*) FROM message WHERE name = 'twice'"), what="it is")
    says(b"1")
    node.await_delivered()
    assert {*ODD_NAMES, "twice"} <= {copy.name for copy in sink.messages()}
    numbers = dict(node.rows("SELECT name, max(id) FROM message GROUP BY name"))
    for name in ODD_NAMES:
        assert_harmless(node.run("show", str(numbers[name])).stdout, name)
        assert json.loads(node.run("show", str(numbers[name]), "--json").stdout)["name"] == name
    listed = node.run("messages", "--limit", "1000").stdout
    assert_harmless(listed, "messages")
    stream = node.one("SELECT name FROM stream")
    assert all(line.startswith(stream) for line in listed.splitlines()), "a line is a message"
    node.stop()
    verdict = judge(node.database, sink.database)
    verdict.assert_good()
