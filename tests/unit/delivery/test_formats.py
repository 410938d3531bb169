"""What the sink reads is what was captured, bit for bit."""

import json
import re
import struct
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sensor_node.config.loader import SinkConfig
from sensor_node.config.schema import options_of
from sensor_node.core.model import Claim, Message, Stream
from sensor_node.delivery.formats import encode, idempotency_key

STREAM = Stream(first_id=1, name="9f3c2a71b0de4c55a1e07d12", wire_first=1, node="edge-01")
TIMESTAMP_US = 1_795_419_878_120_000
OPTIONS = options_of("sink").values()
SINK = SinkConfig(**{option.name: option.kind.parse(option.default) for option in OPTIONS})
LINES = replace(SINK, format="json-lines")
SINGLE = replace(SINK, batch_size=1)

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


def read(body, sink):
    """The objects that a sink finds in a body."""
    if sink.format == "json-lines":
        return [json.loads(line) for line in body.decode().split("\n")[:-1]]
    found = json.loads(body)
    return found if isinstance(found, list) else [found]


def timestamp_of(text):
    """Microseconds since 1970, by another way than the encoder's."""
    since = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def test_the_body_is_exactly_what_the_wire_contract_shows():
    body = encode([message(), message(21.0, message_id=1043)], STREAM, SINK)
    assert body == (
        b'[{"id":"9f3c2a71b0de4c55a1e07d12-1042","node":"edge-01","name":"temperature",'
        b'"value":21.487,"timestamp":"2026-11-23T07:44:38.120000Z"},'
        b'{"id":"9f3c2a71b0de4c55a1e07d12-1043","node":"edge-01","name":"temperature",'
        b'"value":21.0,"timestamp":"2026-11-23T07:44:38.120000Z"}]'
    )


def test_json_lines_ends_every_object_with_a_newline():
    body = encode([message(), message(message_id=1043)], STREAM, LINES)
    assert body.count(b"\n") == 2
    assert body.endswith(b"}\n")
    assert [each["id"] for each in read(body, LINES)] == [
        STREAM.wire_id(1042),
        STREAM.wire_id(1043),
    ]


def test_batch_size_one_sends_one_plain_object():
    assert encode([message()], STREAM, SINGLE).startswith(b'{"id":')


def test_a_larger_batch_stays_whole_when_batch_size_becomes_one():
    assert len(read(encode([message(), message()], STREAM, SINGLE), SINK)) == 2


def test_ids_continue_a_stream_that_begins_in_the_middle_of_a_database():
    stream = Stream(first_id=501, name="a" * 24, wire_first=9_001, node="n")
    [found] = read(encode([message(message_id=502)], stream, SINK), SINK)
    assert found["id"] == stream.wire_id(502) == "a" * 24 + "-9002"


@given(messages)
def test_every_field_arrives_bit_for_bit_in_both_formats(batch):
    for sink in (SINK, LINES):
        found = read(encode(batch, STREAM, sink), sink)
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
    for sink in (SINK, LINES, SINGLE):
        body = encode([message(name=name)], stream, sink)
        [found] = read(body, sink)
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
    [found] = read(encode([message(timestamp_us=timestamp_us)], STREAM, SINK), SINK)
    assert found["timestamp"] == text


@pytest.mark.parametrize(
    ("timestamp_us", "start"),
    [(-(2**63), "0001-01-01T00:00:"), (2**63 - 1, "9999-12-31T23:59:")],
)
def test_a_timestamp_beyond_the_calendar_is_written_as_its_nearest_minute(timestamp_us, start):
    [found] = read(encode([message(timestamp_us=timestamp_us)], STREAM, SINK), SINK)
    assert re.fullmatch(re.escape(start) + r"\d\d\.\d{6}Z", found["timestamp"])


def claim(**changes):
    fields = {"first_id": 1042, "last_id": 1141, "owner": "o", "attempt": 1, "requeue_count": 0}
    return Claim(
        **{**fields, "epoch": 1, "accepted_total": 0, "probe": False, "stream": STREAM, **changes}
    )


def test_the_key_names_stream_and_numbers_in_double_quotes():
    key = idempotency_key(claim(), b"body")
    assert re.fullmatch(r'"9f3c2a71b0de4c55a1e07d12-1042-1141-[0-9a-f]{10}"', key)


def test_the_key_counts_in_numbers_of_the_wire():
    stream = replace(STREAM, first_id=1001, wire_first=1)
    assert "-42-141-" in idempotency_key(claim(stream=stream), b"body")


def test_an_equal_batch_has_an_equal_key_whatever_the_attempt():
    again = claim(attempt=7, epoch=9, owner="other", probe=True)
    assert idempotency_key(claim(), b"body") == idempotency_key(again, b"body")


def test_another_body_never_carries_an_old_key():
    assert idempotency_key(claim(), b"body") != idempotency_key(claim(), b"bodY")


def test_a_requeued_batch_has_another_key():
    assert idempotency_key(claim(), b"body") != idempotency_key(claim(requeue_count=1), b"body")
