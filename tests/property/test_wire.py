"""A reading arrives at the sink bit for bit, from capture through the database to the body."""

import contextlib
import json
import shutil
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sensor_node.core.model import DatedReading, Reading
from sensor_node.formats.message_json import encode_array, encode_lines
from sensor_node.storage.journal.runs import NodeIdentity
from sensor_node.storage.queue.rate_limit import ClaimPolicy
from sensor_node.storage.queue.room import SizeLimits
from sensor_node.storage.repository import SensorDataSQLRepository

MEMORY = Path("/dev/shm")
ROOM = SizeLimits(max_size=1 << 40, min_free=0)
POLICY = ClaimPolicy(100, 0.0, 3600.0, False)

# SQLite keeps no sign of zero.
values = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value or 0.0)
names = st.text(max_size=40)  # without surrogates, which no UTF-8 holds
timestamps = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
odd_names = st.sampled_from(
    [
        '"',
        "\\",
        "\n",
        "\r\n",
        "\t",
        "\0",
        "\x1b[31m",
        "\x7f",
        "\u2028",
        "\ufeff",
        "'; --",
        "é",
        "😀",
    ]
)
readings = st.lists(
    st.builds(Reading, names | odd_names, values, timestamps)
    | st.builds(DatedReading, names | odd_names, values, timestamps, timestamps),
    min_size=1,
    max_size=20,
)


@pytest.fixture(scope="module")
def repository():
    directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    with contextlib.closing(SensorDataSQLRepository(directory / "telemetry.db")) as repository:
        repository.begin_run(NodeIdentity('no"de\n\u2028é', {}), 0.0, "a run")
        yield repository
    shutil.rmtree(directory)


def read_lines(body):
    return [json.loads(line) for line in body.decode().split("\n")[:-1]]


def bits(value):
    assert isinstance(value, float)
    return struct.pack("<d", value)


@settings(deadline=None)
@given(readings)
@example([Reading("least", 5e-324, 0), Reading("most", -1.7976931348623157e308, 0)])
@example([Reading("whole", 1e15, 0), Reading("beyond 2^53", 9007199254740993.0, 0)])
@example([Reading("beyond 2^63", 1e19, 0), Reading("not 15 digits", 0.1 + 0.2, 0)])
@example([Reading("", 2.2250738585072014e-308, 0), Reading("a" * 128, 1 / 3, -1)])
def test_every_value_and_name_arrives_bit_for_bit_in_both_formats(repository, captured):
    assert repository.capture(captured, [], 0.0, ROOM)
    claim = repository.claim_fresh("sender", POLICY, 0.0, len(captured))
    messages = repository.read_claim(claim)
    for encode, read in ((encode_array, json.loads), (encode_lines, read_lines)):
        found = read(encode(messages, claim.stream, 100))
        assert [bits(each["value"]) for each in found] == [bits(each.value) for each in captured]
        assert [each["name"] for each in found] == [each.name for each in captured]
        ids = range(claim.first_id, claim.last_id + 1)
        assert [each["id"] for each in found] == [claim.stream.wire_id(i) for i in ids]
        assert {each["node"] for each in found} == {'no"de\n\u2028é'}
    assert [message.timestamp_us for message in messages] == [
        each.timestamp_us for each in captured
    ]


def test_only_the_sign_of_zero_is_lost(repository):
    repository.capture([Reading("zero", -0.0, 0)], [], 0.0, ROOM)
    claim = repository.claim_fresh("sender", POLICY, 0.0, 1)
    [message] = repository.read_claim(claim)
    assert bits(message.value) == bits(0.0)


def test_a_whole_number_arrives_as_a_float(repository):
    """A command may print `21`; JSON shows 21.0 and no sink sees the type change."""
    repository.capture([Reading("whole", 21, 0)], [], 0.0, ROOM)
    claim = repository.claim_fresh("sender", POLICY, 0.0, 1)
    body = encode_lines(repository.read_claim(claim), claim.stream, 100)
    assert b'"value":21.0,' in body
