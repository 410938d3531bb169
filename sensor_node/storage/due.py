"""Which FAILED batch is next, as the first and last id of its tile."""

import math
import sqlite3

from sensor_node.settlement import DUE_FIRST, SinkRecord

# A deadline further ahead than any that could have been set is a clock that has jumped: due.
# `fate_unknown <= :unknown`: with at-most-once, nothing whose fate was ever unknown goes again.
FIND_DUE = """
SELECT first_id, last_id FROM batch
WHERE status = 'FAILED' AND next_attempt_at > :after AND next_attempt_at <= :now
  AND fate_unknown <= :unknown
ORDER BY next_attempt_at LIMIT 1
"""
BEFORE_ALL = -math.inf
NEXT_DUE = """
SELECT min(next_attempt_at) FROM batch
WHERE status = 'FAILED' AND next_attempt_at > :now AND fate_unknown <= :unknown
"""
FIND_OVERDUE = """
SELECT first_id, last_id FROM batch
WHERE status = 'FAILED' AND next_attempt_at > :now + :longest AND fate_unknown <= :unknown
ORDER BY next_attempt_at DESC LIMIT 1
"""
WAIT_NO_LONGER = """
UPDATE batch SET next_attempt_at = :now WHERE status = 'FAILED' AND next_attempt_at > :now
"""
FIND_LEAST_RECENTLY_TRIED = """
SELECT first_id, last_id FROM batch WHERE status = 'FAILED' AND fate_unknown <= :unknown
ORDER BY turn LIMIT 1
"""


def find_due(
    connection: sqlite3.Connection,
    now: float,
    longest: float,
    *,
    skip_unknown: bool,
    after: float = BEFORE_ALL,
) -> tuple[int, int] | None:
    """First and last id of the FAILED tile that is due first, of those due `after` that time."""
    row = {"after": after, "now": now, "longest": longest, "unknown": int(not skip_unknown)}
    found = connection.execute(FIND_DUE, row).fetchone()
    found = found or connection.execute(FIND_OVERDUE, row).fetchone()
    return (found[0], found[1]) if found else None


def find_left_over(
    connection: sqlite3.Connection, sink: SinkRecord, now: float, *, skip_unknown: bool
) -> tuple[int, int] | None:
    """The batch that was due first when the sink came UP; what is being halved waits its turn."""
    latest = min(now, sink.since)
    return find_due(connection, latest, math.inf, skip_unknown=skip_unknown, after=DUE_FIRST)


def due_in(
    connection: sqlite3.Connection, now: float, longest: float, *, skip_unknown: bool
) -> float:
    """Seconds until find_due() will find a tile; infinite if there is none."""
    if find_due(connection, now, longest, skip_unknown=skip_unknown):
        return 0.0
    row = {"now": now, "unknown": int(not skip_unknown)}
    (due_at,) = connection.execute(NEXT_DUE, row).fetchone()
    return math.inf if due_at is None else float(due_at - now)


def find_least_recently_tried(
    connection: sqlite3.Connection, *, skip_unknown: bool
) -> tuple[int, int] | None:
    """Of the FAILED tile whose last failure is longest ago, in turns, not in time."""
    row = {"unknown": int(not skip_unknown)}
    found = connection.execute(FIND_LEAST_RECENTLY_TRIED, row).fetchone()
    return (found[0], found[1]) if found else None


def wait_no_longer(connection: sqlite3.Connection, now: float) -> None:
    """Every FAILED tile is due: the clock by which they wait was set back."""
    connection.execute(WAIT_NO_LONGER, {"now": now})
