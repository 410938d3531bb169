"""What is given up, and when: purging what was delivered, evicting what there is no room for.

No id is left out: a SENT batch range becomes PURGED, any other EVICTED, and these melt into
neighbours of their kind. Each function takes one small chunk inside a transaction of the caller.
"""

import math
import sqlite3
from typing import NamedTuple

from sensor_node.storage.journal import clock_steps, events
from sensor_node.storage.queue import batch_ranges, message_ids, streams

RANGES_A_CHUNK = 200
MESSAGES_A_CHUNK = 5000

# fresh: delivered, or being sent, at its first claim.
NEXT_RANGES = """
SELECT first_id, last_id,
       status = 'SENT' AND settled_at <= :until AS due,
       status IN ('SENT', 'SENDING') AND attempts = 1 AND claimed_at <= :now AS fresh
FROM batch WHERE first_id > :after ORDER BY first_id LIMIT :limit
"""
DELETE_MESSAGES = "DELETE FROM message WHERE id BETWEEN :first_id AND :last_id"
TURN_INTO = """
UPDATE batch
SET status = :status, owner = NULL, next_attempt_at = NULL, settled_at = :now, isolated = NULL,
    last_error = NULL
WHERE first_id = :first_id
"""
LEFT_OF = """
SELECT first_id, last_id, status FROM batch WHERE first_id < :id ORDER BY first_id DESC LIMIT 1
"""
RIGHT_OF = """
SELECT first_id, last_id, status FROM batch WHERE first_id > :id ORDER BY first_id LIMIT 1
"""
DELETE_RANGE = "DELETE FROM batch WHERE first_id = :first_id"
EXTEND = "UPDATE batch SET last_id = :last_id WHERE first_id = :first_id"
FIRST_FAILED = """
SELECT first_id, last_id FROM batch WHERE status = 'FAILED' ORDER BY first_id LIMIT 1
"""
NEW_EVICTED = "INSERT INTO batch(first_id, last_id, status) VALUES (:first_id, :last_id, 'EVICTED')"
FIRST_PARKED = """
SELECT first_id, last_id FROM batch WHERE status IN ('DEAD', 'IN_DOUBT') ORDER BY first_id LIMIT 1
"""
FIRST_YOUNG = """
SELECT min(id) FROM message
WHERE id > :id AND id < :id + :most AND coalesce(captured_us, timestamp_us) >= :limit
"""
CAPTURED_AT = "SELECT coalesce(captured_us, timestamp_us) FROM message WHERE id = :id"


class Chunk(NamedTuple):
    """SENT ranges, as first and last ids; go on `after` that id. `ended`: there are no more now."""

    batch_ranges: list[tuple[int, int]]
    after: int
    ended: bool

    @property
    def messages(self) -> int:
        """How many they have."""
        return sum(last - first + 1 for first, last in self.batch_ranges)


def find_delivered(
    connection: sqlite3.Connection, after: int, settled_before: float | None, now: float
) -> Chunk:
    """What of the ranges after the id `after` is SENT, settled before then (None: at any time).

    The walk ends with the table, or before the first fresh range that is not due: what lies above
    was claimed later. Where it was not (salvage put it there, a request took long, the clock was
    set), it is purged so much later. A claim in the future tells nothing.
    """
    until = math.inf if settled_before is None else settled_before
    row = {"after": after, "limit": RANGES_A_CHUNK, "until": until, "now": now}
    rows = connection.execute(NEXT_RANGES, row).fetchall()
    found, messages = [], 0
    for first, last, is_due, is_fresh in rows:
        if is_due:
            found.append((first, last))
            messages += last - first + 1
        elif is_fresh and settled_before is not None:
            return Chunk(found, first - 1, ended=True)
        after = first
        if messages >= MESSAGES_A_CHUNK:
            return Chunk(found, after, ended=False)
    return Chunk(found, after, ended=len(rows) < RANGES_A_CHUNK)


def purge(
    connection: sqlite3.Connection, after: int, settled_before: float | None, now: float
) -> Chunk:
    """SENT -> PURGED for what find_delivered() finds."""
    chunk = find_delivered(connection, after, settled_before, now)
    for first, last in chunk.batch_ranges:
        _discard(connection, first, last, "PURGED", now)
    return chunk


def evict_oldest(connection: sqlite3.Connection, most: int, reason: str, now: float) -> int:
    """The oldest FAILED range, else up to `most` of the oldest PENDING -> EVICTED. How many."""
    if found := connection.execute(FIRST_FAILED).fetchone():
        return _evict(connection, found[0], found[1], reason, now)
    first = message_ids.highest_claimed_id(connection) + 1
    last = min(first + most - 1, message_ids.highest_id(connection))
    if last < first:
        return 0
    connection.execute(NEW_EVICTED, {"first_id": first, "last_id": last})
    return _evict(connection, first, last, reason, now)


def evict_older_than(connection: sqlite3.Connection, most: int, limit_us: int, now: float) -> int:
    """`evict_oldest` for what was captured before `limit_us`. Returns how many messages.

    By the present clock: as much as it was set since then is not age.
    """
    first = first_waiting(connection)
    at = captured_at_us(connection, first)
    if at is None:
        return 0
    set_by, last_alike = clock_steps.since(connection, first, at)
    limit_us -= int(set_by * 1e6)
    if at >= limit_us:
        return 0
    if last_alike is not None:
        most = min(most, last_alike - first + 1)
    batch_range = connection.execute(batch_ranges.RANGE_OF, {"id": first}).fetchone()
    if batch_range and batch_range[1] >= first:
        most = min(most, batch_range[1] - first + 1)
    row = {"id": first, "most": most, "limit": limit_us}
    (young,) = connection.execute(FIRST_YOUNG, row).fetchone()
    last_old = young - 1 if young else first + most - 1
    if batch_range and last_old < batch_range[1]:
        batch_ranges.cut(connection, first, batch_range[1], last_old)
    return evict_oldest(connection, last_old - first + 1, "older than max_age", now)


def evict_parked(connection: sqlite3.Connection, reason: str, now: float) -> int:
    """The oldest DEAD or IN_DOUBT batch range -> EVICTED. Returns how many messages."""
    found = connection.execute(FIRST_PARKED).fetchone()
    return _evict(connection, found[0], found[1], reason, now) if found else 0


def first_waiting(connection: sqlite3.Connection) -> int:
    """The id that `evict_oldest` would begin with, if there is one."""
    found = connection.execute(FIRST_FAILED).fetchone()
    return int(found[0]) if found else message_ids.highest_claimed_id(connection) + 1


def captured_at_us(connection: sqlite3.Connection, message_id: int) -> int | None:
    row = connection.execute(CAPTURED_AT, {"id": message_id}).fetchone()
    return int(row[0]) if row else None


def _evict(connection: sqlite3.Connection, first: int, last: int, reason: str, now: float) -> int:
    _discard(connection, first, last, "EVICTED", now)
    n = last - first + 1
    events.record(connection, now, "evicted", reason, n=n, first=first, last=last)
    return n


def _discard(
    connection: sqlite3.Connection, first: int, last: int, status: str, now: float
) -> None:
    connection.execute(DELETE_MESSAGES, {"first_id": first, "last_id": last})
    streams.forget(connection, first, last)
    connection.execute(TURN_INTO, {"first_id": first, "status": status, "now": now})
    right = connection.execute(RIGHT_OF, {"id": first}).fetchone()
    if right and right[2] == status:
        connection.execute(DELETE_RANGE, {"first_id": right[0]})
        connection.execute(EXTEND, {"first_id": first, "last_id": right[1]})
        last = right[1]
    left = connection.execute(LEFT_OF, {"id": first}).fetchone()
    if left and left[2] == status:
        connection.execute(DELETE_RANGE, {"first_id": first})
        connection.execute(EXTEND, {"first_id": left[0], "last_id": last})
