"""Puts readings of another database on top of the queue, with the ids that they have there.

Each function is one step inside a transaction of the caller.
"""

import itertools
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sensor_node.core.model import DatedReading, Reading, Stream
from sensor_node.storage.journal import events, runs
from sensor_node.storage.queue import batch_ranges, message_ids, streams

# What a stream's rows cover, in its own numbers.
NUMBERS = """
SELECT wire_first, wire_first - first_id + coalesce(last_id, :captured)
FROM stream WHERE name = :name
"""
INSERT_MESSAGE = """
INSERT INTO message(status, name, value, timestamp_us, captured_us) VALUES (?, ?, ?, ?, ?)
"""
INSERT_RANGE = """
INSERT INTO batch(first_id, last_id, status, settled_at, next_attempt_at, failure_order,
                  fate_unknown,
                  last_error)
VALUES (:first_id, :last_id, :status, :now, :now, :failure_order, :unknown, :error)
"""
ERROR = "salvaged from another database"


class Salvaged(NamedTuple):
    """A reading with the id that it keeps: number `number` of stream `stream`.

    `status`: DEAD or IN_DOUBT, or FAILED where it is to be sent and may have been sent before.
    """

    stream: str
    number: int
    node: str
    status: str
    reading: Reading | DatedReading


def absent(connection: sqlite3.Connection, found: Sequence[Salvaged]) -> list[Salvaged]:
    """Those whose ids this database has never had, whatever has become of them since."""
    numbers: dict[str, list[int]] = {}
    for one in sorted(found):
        numbers.setdefault(one.stream, []).append(one.number)
    here: set[tuple[str, int]] = set()
    captured = message_ids.highest_id(connection)
    for name, wanted in numbers.items():
        for first, last in connection.execute(NUMBERS, {"name": name, "captured": captured}):
            known = wanted[bisect_left(wanted, first) : bisect_right(wanted, last)]
            here.update((name, number) for number in known)
    return [one for one in found if (one.stream, one.number) not in here]


def make_way(connection: sqlite3.Connection, size: int, most: int, now: float) -> bool:
    """PENDING -> FAILED, due now, for the `most` oldest: ranges can only be put upon ranges.

    Returns whether nothing is PENDING any more.
    """
    first, captured = (
        message_ids.highest_claimed_id(connection) + 1,
        message_ids.highest_id(connection),
    )
    end = min(first + most - 1, captured)
    while first <= end:
        last = min(first + size - 1, end, message_ids.end_of_stream(connection, first))
        _insert_range(connection, first, last, "FAILED", now, unknown=False, error=None)
        batch_ranges.mark(connection, first, last, "FAILED")
        first = last + 1
    return end == captured


def add(
    connection: sqlite3.Connection, found: Sequence[Salvaged], source: str, size: int, now: float
) -> None:
    """Append them, each contiguous run as a stream's; what is captured next is of a new stream.

    Nothing may be PENDING.
    """
    runs.keep_account(connection, now)
    present = streams.last(connection)
    top = first = message_ids.highest_id(connection) + 1
    for run in _contiguous(found):
        head = run[0]
        run_of = Stream(top, head.stream, head.number, head.node)
        streams.put(connection, run_of, salvaged=True)
        rows = [(head.status, *one.reading[:3], one.reading.captured_us) for one in run]
        connection.executemany(INSERT_MESSAGE, rows)
        end = top + len(run)
        for start in range(top, end, size):
            last, unknown = min(start + size, end) - 1, head.status != "DEAD"
            _insert_range(connection, start, last, head.status, now, unknown=unknown, error=ERROR)
        top = end
    span = {"n": top - first, "first": first, "last": top - 1}
    events.record(connection, now, "salvaged", source, **span)
    if present:
        streams.begin(connection, present.node)
        streams.forget(connection, present.first_id, present.first_id)


def _contiguous(found: Sequence[Salvaged]) -> Iterator[list[Salvaged]]:
    """Runs of one stream, node and status without a gap in their numbers."""
    places = enumerate(found)
    for _, run in itertools.groupby(
        places, key=lambda one: (one[1].stream, one[1].node, one[1].status, one[1].number - one[0])
    ):
        yield [one for _, one in run]


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
