"""What the sink reads is what was captured, bit for bit."""

import itertools
import json
import re
import struct
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sinks import FaultSink

from sensor_node.core.model import Message, Stream
from sensor_node.formats import FORMATS
from sensor_node.formats.message_json import encode_array, encode_lines

STREAM = Stream(first_id=1, name="9f3c2a71b0de4c55a1e07d12", wire_first=1, node="edge-01")
TIMESTAMP_US = 1_795_419_878_120_000
MANY = 100  # a batch_size
PROCESS_SECONDS = 60

floats = st.floats(allow_nan=False, allow_infinity=False)
any_text = st.text(st.integers(0, 0x10FFFF).map(chr))  # lone surrogates too
messages = st.lists(
    st.builds(
        Message,
        id=st.integers(1, 2**62),
        name=st.text(),
        value=floats,
        timestamp_us=st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    )
)


def message(value=21.487, name="temperature", timestamp_us=TIMESTAMP_US, message_id=1042):
    return Message(message_id, name, value, timestamp_us)


def read_json(body):
    """The objects that a sink finds in a body."""
    content = json.loads(body)
    return content if isinstance(content, list) else [content]


def read_lines(body):
    return [json.loads(line) for line in body.decode().split("\n")[:-1]]


BOTH = ((encode_array, read_json), (encode_lines, read_lines))


def timestamp_of(text):
    """Microseconds since 1970, by another way than the encoder's."""
    since = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def test_the_body_is_exactly_what_the_wire_contract_shows():
    body = encode_array([message(), message(21.0, message_id=1043)], STREAM, MANY)
    assert body == (
        b'[{"id":"9f3c2a71b0de4c55a1e07d12-1042","node":"edge-01","name":"temperature",'
        b'"value":21.487,"timestamp":"2026-11-23T07:44:38.120000Z"},'
        b'{"id":"9f3c2a71b0de4c55a1e07d12-1043","node":"edge-01","name":"temperature",'
        b'"value":21.0,"timestamp":"2026-11-23T07:44:38.120000Z"}]'
    )


def test_json_lines_ends_every_object_with_a_newline():
    body = encode_lines([message(), message(message_id=1043)], STREAM, MANY)
    assert body.count(b"\n") == 2
    assert body.endswith(b"}\n")
    assert [each["id"] for each in read_lines(body)] == [
        STREAM.wire_id(1042),
        STREAM.wire_id(1043),
    ]


def test_batch_size_one_sends_one_plain_object():
    assert encode_array([message()], STREAM, 1).startswith(b'{"id":')


def test_a_larger_batch_stays_whole_when_batch_size_becomes_one():
    assert len(json.loads(encode_array([message(), message()], STREAM, 1))) == 2


def test_ids_continue_a_stream_that_begins_in_the_middle_of_a_database():
    stream = Stream(first_id=501, name="a" * 24, wire_first=9_001, node="n")
    [found] = read_json(encode_array([message(message_id=502)], stream, MANY))
    assert found["id"] == stream.wire_id(502) == "a" * 24 + "-9002"


@given(messages)
def test_every_field_arrives_bit_for_bit_in_both_formats(batch):
    for encode, read in BOTH:
        found = read(encode(batch, STREAM, MANY))
        assert [list(each) for each in found] == [
            ["id", "node", "name", "value", "timestamp"] for _ in batch
        ]
        for sent, each in zip(batch, found, strict=True):
            assert each["id"] == STREAM.wire_id(sent.id)
            assert each["name"] == sent.name
            assert struct.pack("<d", each["value"]) == struct.pack("<d", sent.value)
            assert timestamp_of(each["timestamp"]) == sent.timestamp_us


@given(any_text, any_text)
@example('quote " backslash \\ newline \n nul \0 del \x7f', "\u2028\u2029\x85")
@example("\ud800", "\udfff\ud800\udc00")
def test_no_name_and_no_node_can_break_the_encoder(name, node):
    stream = replace(STREAM, node=node)
    for (encode, read), batch_size in itertools.product(BOTH, (MANY, 1)):
        [found] = read(encode([message(name=name)], stream, batch_size))
        assert (found["name"], found["node"]) == (joined(name), joined(node))


def joined(text):
    """Two surrogates that make a pair are one character, to whoever reads JSON."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@pytest.mark.parametrize(
    ("timestamp_us", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (59_999_999, "1970-01-01T00:00:59.999999Z"),
        (-62_135_596_800_000_000, "0001-01-01T00:00:00.000000Z"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_timestamps_before_1970_and_at_the_ends_of_the_calendar_are_right(timestamp_us, text):
    [found] = read_json(encode_array([message(timestamp_us=timestamp_us)], STREAM, MANY))
    assert found["timestamp"] == text


@pytest.mark.parametrize(
    ("timestamp_us", "start"),
    [(-(2**63), "0001-01-01T00:00:"), (2**63 - 1, "9999-12-31T23:59:")],
)
def test_a_timestamp_beyond_the_calendar_is_written_as_its_nearest_minute(timestamp_us, start):
    [found] = read_json(encode_array([message(timestamp_us=timestamp_us)], STREAM, MANY))
    assert re.fullmatch(re.escape(start) + r"\d\d\.\d{6}Z", found["timestamp"])


def test_no_name_is_in_the_table_twice():
    assert len({row.name for row in FORMATS}) == len(FORMATS)


# The program with one more row.
WITH_CSV = """
import contextlib
import sys
from pathlib import Path

from sensor_node import formats


def encode(messages, stream, batch_size):
    lines = [f"{stream.wire_id(id)},{name},{value}" for id, name, value, _ in messages]
    return "\\n".join([f"of {batch_size}", *lines]).encode()


formats.FORMATS += (formats.Format("csv", "text/csv", encode),)
"""
CHECK = """
from sensor_node.__main__ import main

sys.exit(main())
"""
DELIVER = """
from sensor_node.config.loader import load_config
from sensor_node.core.clock import SystemClock
from sensor_node.core.model import Reading
from sensor_node.delivery.batch_sender import BatchSender, policy_of
from sensor_node.delivery.client import HttpTelemetryClient
from sensor_node.storage.journal.runs import NodeIdentity
from sensor_node.storage.queue.room import SizeLimits
from sensor_node.storage.repository import SensorDataSQLRepository

config = load_config(Path(sys.argv[1]))
clock = SystemClock()
now = clock.now().wall
config.state_directory.mkdir()
with contextlib.closing(SensorDataSQLRepository(config.storage.path)) as repository:
    repository.begin_run(NodeIdentity("edge-01", {}), now, "a run")
    readings = [Reading("room", 1.5, 0), Reading("attic", 2.5, 0)]
    repository.capture(readings, [], now, SizeLimits(1 << 40, 0))
    claim = repository.claim_fresh("sender:boot:1:1", policy_of(config), now, 10)
    sender = BatchSender(
        config, repository, lambda: HttpTelemetryClient(config.sink, clock), clock, lambda: None
    )
    sender.deliver(claim)
    sender.close()
    print(claim.stream.name)
"""


@pytest.fixture
def run(tmp_path):
    """A program that knows one format more, with arguments."""

    def run_program(program, *arguments):
        file = tmp_path / "program.py"
        file.write_text(WITH_CSV + program)
        command = [sys.executable, str(file), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS)

    return run_program


class TestARowAlone:
    def test_makes_a_format_that_check_accepts(self, tmp_path, run):
        file = tmp_path / "config.ini"
        file.write_text("[sensor:room]\n[sink]\nformat = csv\n")
        done = run(CHECK, "-c", str(file), "check")
        assert done.stdout.startswith(f"{file}: good, 1 sensor\n"), done.stderr

    def test_is_among_those_that_a_mistake_is_answered_with(self, tmp_path, run):
        file = tmp_path / "config.ini"
        file.write_text("[sensor:room]\n[sink]\nformat = xml\n")
        done = run(CHECK, "-c", str(file), "check")
        assert done.returncode == 78
        assert "[sink] format = 'xml': want one of json, json-lines, csv" in done.stderr

    def test_makes_a_format_that_reaches_the_sink_with_its_content_type(self, tmp_path, run):
        file = tmp_path / "config.ini"
        with FaultSink() as sink:
            file.write_text(
                f"[sensor:room]\n[sink]\nurl = {sink.url}\nformat = csv\nbatch_size = 10\n"
            )
            done = run(DELIVER, str(file))
            assert done.returncode == 0, done.stderr
            [request] = sink.requests()
        stream = done.stdout.strip()
        assert request.headers["Content-Type"] == "text/csv"
        assert request.body.decode() == f"of 10\n{stream}-1,room,1.5\n{stream}-2,attic,2.5"
