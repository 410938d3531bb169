"""What a command's output means: a number, or an object with a reading, on each line."""

import json
import re
from datetime import UTC, datetime, timedelta

from sensor_node.core.errors import SourceError
from sensor_node.core.model import DatedReading, Reading, Readings
from sensor_node.core.options import MAX_NAME_BYTES

SHOWN_CHARACTERS = 80
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# https://docs.python.org/3/library/traceback.html: what an uncaught exception prints.
STACK = re.compile(rb"(  \+ Exception Group )?Traceback \(most recent call last\):")
PLACE = re.compile(rb'  File ".*", line [0-9]+')
WITHIN = re.compile(rb" (?! \| \w)")  # a group's own line is behind a bar, as its stack is
IGNORED = re.compile(rb"Exception ignored ")
YEAR_10000_US = 253_402_300_800 * 1_000_000
WANTED = (
    'print a number, or {"name": …, "value": …, "timestamp": …}, on each line: a name of at most '
    f"{MAX_NAME_BYTES} bytes, a timestamp in ISO 8601 with offset, or in seconds since 1970"
)


def parse_output(output: bytes, name: str, timestamp_us: int) -> Readings:
    """A reading for each line, captured at `timestamp_us`.

    Name and time of capture stand in where a line has none of its own.
    """
    readings = []
    for line in filter(None, map(bytes.strip, output.splitlines())):
        try:
            readings.append(_parse_line(line.decode(), name, timestamp_us))
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise SourceError(f"the command printed {shown(line)}; {WANTED}") from None
    if not readings:
        raise SourceError(f"the command printed nothing; {WANTED}")
    return readings


def _parse_line(line: str, name: str, timestamp_us: int) -> Reading | DatedReading:
    """Keys beyond the three are left aside."""
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
        # A time without offset could be any; subtracting it from one with is a TypeError.
        microseconds = (datetime.fromisoformat(value) - EPOCH) // timedelta(microseconds=1)
    else:
        microseconds = round(_number(value) * 1_000_000)
    if not 0 <= microseconds < YEAR_10000_US:  # also where milliseconds were given
        raise ValueError(value)
    return microseconds


def telling_line(complaint: bytes) -> bytes:
    """Of what it said on stderr: the first line, or what a Python program died of.

    That is the line behind the last stack: of chained exceptions the last one is raised by what
    came before it. Of a group it is the group's own.
    """
    lines = [line.rstrip() for line in complaint.splitlines() if line.strip()]
    stacks = [number for number, line in enumerate(lines) if STACK.fullmatch(line)]
    # Where the program itself is no Python, there is none.
    stacks = stacks or [number for number, line in enumerate(lines) if PLACE.fullmatch(line)]
    for number in reversed(stacks):
        if number and IGNORED.match(lines[number - 1]):
            continue  # it came too late to be what the program died of
        behind = [line for line in lines[number + 1 :] if not WITHIN.match(line)]
        if behind:
            # A text may begin on the line after the exception's name.
            return b" ".join(behind[: 2 if behind[0].endswith(b":") else 1]).lstrip(b" |")
    return lines[0].strip() if lines else b""


def shown(line: bytes) -> str:
    """Fit for one log line: short, quoted, control characters escaped."""
    text = line.decode(errors="replace")
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")
