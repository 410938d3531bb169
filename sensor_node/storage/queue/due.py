"""Which FAILED batch is next, as the first and last id of its batch range."""

import math
import sqlite3
from collections.abc import Mapping
from typing import Any

from sensor_node.core.settlement import DUE_FIRST

# With at-most-once, a batch whose fate was ever unknown is not sent again. So each query asks for
# one fate: it need not step over the batches that may not be sent.
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
# A time further ahead than any wait can be comes of a clock that has jumped: such a batch is due.
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
    batch = first_of(connection, FIND_DUE, row, skip_unknown=skip_unknown)
    batch = batch or first_of(connection, FIND_OVERDUE, row, skip_unknown=skip_unknown)
    return (batch[1], batch[2]) if batch else None


def due_since(connection: sqlite3.Connection, now: float, *, skip_unknown: bool) -> float:
    """When the batch range that is due first became due, in wall seconds; infinite if none is."""
    batch = first_of(connection, FIND_DUE, {"now": now}, skip_unknown=skip_unknown)
    return float(batch[0]) if batch else math.inf


def find_left_over(
    connection: sqlite3.Connection, now: float, *, skip_unknown: bool
) -> tuple[int, int] | None:
    """First and last id of the batch that is due first of those that are left over.

    What the sink refused and is being halved is not left over: the retrier takes it.
    """
    row = {"after": DUE_FIRST, "now": now}
    batch = first_of(connection, FIND_LEFT_OVER, row, skip_unknown=skip_unknown)
    return (batch[1], batch[2]) if batch else None


def due_in(
    connection: sqlite3.Connection, now: float, longest: float, *, skip_unknown: bool
) -> float:
    """Seconds until find_due() will find a batch range; infinite if there is none."""
    if find_due(connection, now, longest, skip_unknown=skip_unknown):
        return 0.0
    batch = first_of(connection, NEXT_DUE, {"now": now}, skip_unknown=skip_unknown)
    return float(batch[0] - now) if batch else math.inf


def find_least_recently_tried(
    connection: sqlite3.Connection, *, skip_unknown: bool
) -> tuple[int, int] | None:
    """First and last id of the FAILED batch range with the lowest failure order."""
    batch = first_of(connection, FIND_LEAST_RECENTLY_TRIED, {}, skip_unknown=skip_unknown)
    return (batch[1], batch[2]) if batch else None


def wait_no_longer(connection: sqlite3.Connection, now: float) -> None:
    """Make every FAILED batch range due, as the clock was set back, by which they wait."""
    connection.execute(WAIT_NO_LONGER, {"now": now})


def first_of(
    connection: sqlite3.Connection,
    query: str,
    parameters: Mapping[str, object],
    *,
    skip_unknown: bool,
) -> tuple[Any, ...] | None:
    """Ask the query for each fate that may be sent; return the lowest of the rows."""
    fates = (CERTAIN,) if skip_unknown else (CERTAIN, UNKNOWN)
    rows = [connection.execute(query, {**parameters, "fate": fate}).fetchone() for fate in fates]
    return min((row for row in rows if row), default=None)
