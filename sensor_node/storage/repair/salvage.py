"""Appends readings of another database to the queue, with the ids that they have there.

Each function is one step inside a transaction of the caller. See docs/adr/0012.
"""

import itertools
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sensor_node.core.model import DatedReading, Reading, Stream
from sensor_node.storage.journal import events, runs
from sensor_node.storage.queue import batch_ranges, message_ids, streams

# First and last number of each row of a stream, as the stream itself counts.
NUMBERS = """
SELECT wire_first, wire_first - first_id + coalesce(last_id, :captured)
FROM stream WHERE name = :name
"""
INSERT_MESSAGE = """
INSERT INTO message(status, name, value, timestamp_us, captured_us) VALUES (?, ?, ?, ?, ?)
"""
INSERT_RANGE = """
INSERT INTO batch(first_id, last_id, status, settled_at, next_attempt_at, failure_order,
                  fate_unknown, last_error)
VALUES (:first_id, :last_id, :status, :now, :now, :failure_order, :unknown, :error)
"""
ERROR = "salvaged from another database"


class Salvaged(NamedTuple):
    """A reading of another database, with the id that it keeps."""

    stream: str  # the name of the stream
    number: int  # within the stream
    node: str  # the node that captured it
    status: str  # DEAD or IN_DOUBT; FAILED: to be sent, perhaps again
    reading: Reading | DatedReading


def absent(connection: sqlite3.Connection, readings: Sequence[Salvaged]) -> list[Salvaged]:
    """The readings whose ids this database has never had, not even for a message that is gone."""
    numbers: dict[str, list[int]] = {}
    for salvaged in sorted(readings):
        numbers.setdefault(salvaged.stream, []).append(salvaged.number)
    present: set[tuple[str, int]] = set()
    captured = message_ids.highest_id(connection)
    for stream, sought in numbers.items():
        for first, last in connection.execute(NUMBERS, {"name": stream, "captured": captured}):
            known = sought[bisect_left(sought, first) : bisect_right(sought, last)]
            present.update((stream, number) for number in known)
    return [salvaged for salvaged in readings if (salvaged.stream, salvaged.number) not in present]


def make_way(connection: sqlite3.Connection, size: int, most: int, now: float) -> bool:
    """PENDING -> FAILED, due now, for the `most` oldest messages, in ranges of up to `size`.

    Salvaged readings come as batch ranges, and nothing below a batch range may be PENDING. Returns
    whether nothing is PENDING any more. `now` is wall seconds.
    """
    first = message_ids.highest_claimed_id(connection) + 1
    captured = message_ids.highest_id(connection)
    end = min(first + most - 1, captured)
    while first <= end:
        last = min(first + size - 1, end, message_ids.end_of_stream(connection, first))
        _insert_range(connection, first, last, "FAILED", now, unknown=False, error=None)
        batch_ranges.mark(connection, first, last, "FAILED")
        first = last + 1
    return end == captured


def add(
    connection: sqlite3.Connection, readings: Sequence[Salvaged], source: str, size: int, now: float
) -> None:
    """Append the readings in ranges of up to `size`; what is captured next is of a new stream.

    Each run of consecutive numbers becomes a row of `stream`. Nothing may be PENDING. `source` is
    the name of the file that the readings come from, for the history; `now` is wall seconds.
    """
    runs.keep_account(connection, now)
    present = streams.last(connection)
    top = first = message_ids.highest_id(connection) + 1
    for run in _contiguous(readings):
        head = run[0]
        streams.put(connection, Stream(top, head.stream, head.number, head.node), salvaged=True)
        rows = [(head.status, *each.reading[:3], each.reading.captured_us) for each in run]
        connection.executemany(INSERT_MESSAGE, rows)
        end = top + len(run)
        for start in range(top, end, size):
            last, unknown = min(start + size, end) - 1, head.status != "DEAD"
            _insert_range(connection, start, last, head.status, now, unknown=unknown, error=ERROR)
        top = end
    span: dict[str, Any] = {"n": top - first, "first": first, "last": top - 1}
    events.record(connection, now, "salvaged", source, **span)
    if present:
        streams.begin(connection, present.node)
        streams.forget(connection, present.first_id, present.first_id)


def _contiguous(readings: Sequence[Salvaged]) -> Iterator[list[Salvaged]]:
    """Runs of one stream, node and status without a gap in their numbers."""

    def run_of(numbered: tuple[int, Salvaged]) -> tuple[str, str, str, int]:
        place, salvaged = numbered
        return salvaged.stream, salvaged.node, salvaged.status, salvaged.number - place

    for _, run in itertools.groupby(enumerate(readings), run_of):
        yield [salvaged for _, salvaged in run]


def _insert_range(
    connection: sqlite3.Connection,
    first: int,
    last: int,
    status: str,
    now: float,
    *,
    unknown: bool,
    error: str | None,
) -> None:
    (failure_order,) = connection.execute(batch_ranges.NEXT_FAILURE_ORDER).fetchone()
    row = {
        "first_id": first,
        "last_id": last,
        "status": status,
        "now": now,
        "failure_order": failure_order,
    }
    connection.execute(INSERT_RANGE, {**row, "unknown": int(unknown), "error": error})
