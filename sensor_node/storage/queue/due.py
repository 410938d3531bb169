"""Which FAILED batch is next, as the first and last id of its batch range."""

import math
import sqlite3
from collections.abc import Mapping
from typing import Any

from sensor_node.core.settlement import DUE_FIRST

# With at-most-once, nothing whose fate was ever unknown goes again. So ranges of either fate are
# asked for by themselves: those that may not go are never walked through.
CERTAIN, UNKNOWN = 0, 1

FIND_DUE = """
SELECT next_attempt_at, first_id, last_id FROM batch
WHERE status = 'FAILED' AND isolated IS NULL AND fate_unknown = :fate
  AND next_attempt_at <= :now
ORDER BY next_attempt_at LIMIT 1
"""
FIND_LEFT_OVER = """
SELECT next_attempt_at, first_id, last_id FROM batch
WHERE status = 'FAILED' AND isolated IS NULL AND failures = 0 AND fate_unknown = :fate
  AND next_attempt_at > :after AND next_attempt_at <= :now
ORDER BY next_attempt_at LIMIT 1
"""
NEXT_DUE = """
SELECT next_attempt_at FROM batch
WHERE status = 'FAILED' AND isolated IS NULL AND fate_unknown = :fate AND next_attempt_at > :now
ORDER BY next_attempt_at LIMIT 1
"""
# A deadline further ahead than any that could have been set is a clock that has jumped: due.
FIND_OVERDUE = """
SELECT next_attempt_at, first_id, last_id FROM batch
WHERE status = 'FAILED' AND isolated IS NULL AND fate_unknown = :fate
  AND next_attempt_at > :now + :longest
ORDER BY next_attempt_at LIMIT 1
"""
WAIT_NO_LONGER = """
UPDATE batch SET next_attempt_at = :now
WHERE status = 'FAILED' AND isolated IS NULL AND fate_unknown IN (0, 1)
  AND next_attempt_at > :now
"""
FIND_LEAST_RECENTLY_TRIED = """
SELECT failure_order, first_id, last_id FROM batch
WHERE status = 'FAILED' AND isolated IS NULL AND fate_unknown = :fate
ORDER BY failure_order LIMIT 1
"""


def find_due(
    connection: sqlite3.Connection, now: float, longest: float, *, skip_unknown: bool
) -> tuple[int, int] | None:
    """First and last id of the FAILED batch range that is due first."""
    row = {"now": now, "longest": longest}
    found = first_of(connection, FIND_DUE, row, skip_unknown=skip_unknown)
    found = found or first_of(connection, FIND_OVERDUE, row, skip_unknown=skip_unknown)
    return (found[1], found[2]) if found else None


def due_since(connection: sqlite3.Connection, now: float, *, skip_unknown: bool) -> float:
    """Since when a batch range is due; infinite if none is."""
    found = first_of(connection, FIND_DUE, {"now": now}, skip_unknown=skip_unknown)
    return float(found[0]) if found else math.inf


def find_left_over(
    connection: sqlite3.Connection, now: float, *, skip_unknown: bool
) -> tuple[int, int] | None:
    """The batch range that is due first of those that have not failed for their own sake.

    Not what is refused and halved to the end before anything else.
    """
    row = {"after": DUE_FIRST, "now": now}
    found = first_of(connection, FIND_LEFT_OVER, row, skip_unknown=skip_unknown)
    return (found[1], found[2]) if found else None


def due_in(
    connection: sqlite3.Connection, now: float, longest: float, *, skip_unknown: bool
) -> float:
    """Seconds until find_due() will find a batch range; infinite if there is none."""
    if find_due(connection, now, longest, skip_unknown=skip_unknown):
        return 0.0
    found = first_of(connection, NEXT_DUE, {"now": now}, skip_unknown=skip_unknown)
    return float(found[0] - now) if found else math.inf


def find_least_recently_tried(
    connection: sqlite3.Connection, *, skip_unknown: bool
) -> tuple[int, int] | None:
    """Of the FAILED batch range whose last failure is longest ago, in turns, not in time."""
    found = first_of(connection, FIND_LEAST_RECENTLY_TRIED, {}, skip_unknown=skip_unknown)
    return (found[1], found[2]) if found else None


def wait_no_longer(connection: sqlite3.Connection, now: float) -> None:
    """Every FAILED batch range is due: the clock by which they wait was set back."""
    connection.execute(WAIT_NO_LONGER, {"now": now})


def first_of(
    connection: sqlite3.Connection, query: str, row: Mapping[str, object], *, skip_unknown: bool
) -> tuple[Any, ...] | None:
    """The lesser row of what the query finds among ranges of certain fate and among the others."""
    fates = (CERTAIN,) if skip_unknown else (CERTAIN, UNKNOWN)
    found = [connection.execute(query, {**row, "fate": fate}).fetchone() for fate in fates]
    return min((batch_range for batch_range in found if batch_range), default=None)
