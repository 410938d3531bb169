"""What a command's output means: a number, or an object with a reading, on each line."""

import json
import re
from datetime import UTC, datetime, timedelta

from sensor_node.core.errors import SourceError
from sensor_node.core.model import DatedReading, Reading, Readings
from sensor_node.core.options import MAX_NAME_BYTES

SHOWN_CHARACTERS = 80
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What an uncaught exception prints: https://docs.python.org/3/library/traceback.html
STACK = re.compile(rb"(  \+ Exception Group )?Traceback \(most recent call last\):")
PLACE = re.compile(rb'  File ".*", line [0-9]+')
WITHIN = re.compile(rb" (?! \| \w)")  # a group's own line is indented, too, but behind a bar
IGNORED = re.compile(rb"Exception ignored ")
YEAR_10000_US = 253_402_300_800 * 1_000_000
WANTED = (
    'print a number, or {"name": …, "value": …, "timestamp": …}, on each line: a name of at most '
    f"{MAX_NAME_BYTES} bytes, a timestamp in ISO 8601 with offset, or in seconds since 1970"
)


def parse_output(output: bytes, name: str, timestamp_us: int) -> Readings:
    """A reading for each line, captured at `timestamp_us`.

    A line without a name has `name`. Raises SourceError if a line is neither a number nor an
    object, or if there is none.
    """
    readings = []
    for line in filter(None, map(bytes.strip, output.splitlines())):
        try:
            readings.append(_parse_line(line.decode(), name, timestamp_us))
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise SourceError(f"the command printed {quoted(line)}; {WANTED}") from None
    if not readings:
        raise SourceError(f"the command printed nothing; {WANTED}")
    return readings


def _parse_line(line: str, name: str, timestamp_us: int) -> Reading | DatedReading:
    """Other keys than name, value and timestamp are ignored."""
    if not line.startswith("{"):
        return Reading(name, float(line), timestamp_us)
    fields = json.loads(line)
    name = fields.get("name", name)
    if not isinstance(name, str) or not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
        raise ValueError(name)
    value = _number(fields.get("value"))
    if "timestamp" in fields:
        return DatedReading(name, value, _timestamp_us(fields["timestamp"]), timestamp_us)
    return Reading(name, value, timestamp_us)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    return float(value)


def _timestamp_us(value: object) -> int:
    if isinstance(value, str):
        # A time without an offset is ambiguous: EPOCH cannot be subtracted (TypeError).
        microseconds = (datetime.fromisoformat(value) - EPOCH) // timedelta(microseconds=1)
    else:
        microseconds = round(_number(value) * 1_000_000)
    if not 0 <= microseconds < YEAR_10000_US:  # a number of milliseconds is too large
        raise ValueError(value)
    return microseconds


def telling_line(complaint: bytes) -> bytes:
    """The line of stderr that says why the command failed.

    Of a Python program that is the line after the last stack, because the last of several chained
    exceptions is the one that ended it; of an exception group, the group's own line. Of any other
    program it is the first line.
    """
    lines = [line.rstrip() for line in complaint.splitlines() if line.strip()]
    stacks = [number for number, line in enumerate(lines) if STACK.fullmatch(line)]
    # A program that is no valid Python ends with a SyntaxError, which has no such header.
    stacks = stacks or [number for number, line in enumerate(lines) if PLACE.fullmatch(line)]
    for number in reversed(stacks):
        if number and IGNORED.match(lines[number - 1]):
            continue  # an ignored exception does not end the program
        after = [line for line in lines[number + 1 :] if not WITHIN.match(line)]
        if after:
            # The message may begin on the line after the exception's name.
            return b" ".join(after[: 2 if after[0].endswith(b":") else 1]).lstrip(b" |")
    return lines[0].strip() if lines else b""


def quoted(line: bytes) -> str:
    """The line for a log: short, in quotes, with control characters escaped."""
    text = line.decode(errors="replace")
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")
