"""Deletes messages: purges what was delivered, evicts what there is no room for.

Their batch ranges stay, so that each id is accounted for: SENT becomes PURGED, any other status
becomes EVICTED, and neighbours of the same kind are joined. Each function takes one chunk inside a
transaction of the caller.
"""

import math
import sqlite3
from typing import NamedTuple

from sensor_node.storage.journal import clock_steps, events
from sensor_node.storage.queue import batch_ranges, message_ids, streams

RANGES_A_CHUNK = 200
MESSAGES_A_CHUNK = 5000

# first_claim: delivered, or being sent, in its first attempt.
NEXT_RANGES = """
SELECT first_id, last_id,
       status = 'SENT' AND settled_at <= :until AS due,
       status IN ('SENT', 'SENDING') AND attempts = 1 AND claimed_at <= :now
         AS first_claim
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
    """SENT ranges, each as first and last id.

    `after`: the next search begins above this id. `ended`: there are no more now.
    """

    batch_ranges: list[tuple[int, int]]
    after: int
    ended: bool

    @property
    def messages(self) -> int:
        """How many messages the ranges have."""
        return sum(last - first + 1 for first, last in self.batch_ranges)


def find_delivered(
    connection: sqlite3.Connection, after: int, settled_before: float | None, now: float
) -> Chunk:
    """SENT ranges above the id `after` that were settled before then (None: at any time).

    The search ends with the table, or below the first range that is in its first attempt and not
    due yet. The ranges above that were claimed later, so they are not due either. Sometimes they
    are: salvage put them there, a request took long, or the clock was set; then they wait for that
    range. A range that was claimed in the future does not end the search: its time is wrong.
    """
    until = math.inf if settled_before is None else settled_before
    parameters = {"after": after, "limit": RANGES_A_CHUNK, "until": until, "now": now}
    rows = connection.execute(NEXT_RANGES, parameters).fetchall()
    delivered, messages = [], 0
    for first, last, is_due, is_first_claim in rows:
        if is_due:
            delivered.append((first, last))
            messages += last - first + 1
        elif is_first_claim and settled_before is not None:
            return Chunk(delivered, first - 1, ended=True)
        after = first
        if messages >= MESSAGES_A_CHUNK:
            return Chunk(delivered, after, ended=False)
    return Chunk(delivered, after, ended=len(rows) < RANGES_A_CHUNK)


def purge(
    connection: sqlite3.Connection, after: int, settled_before: float | None, now: float
) -> Chunk:
    """SENT -> PURGED for what find_delivered() finds."""
    chunk = find_delivered(connection, after, settled_before, now)
    for first, last in chunk.batch_ranges:
        _discard(connection, first, last, "PURGED", now)
    return chunk


def evict_oldest(connection: sqlite3.Connection, most: int, reason: str, now: float) -> int:
    """FAILED -> EVICTED for the oldest range; if none, PENDING -> EVICTED for the oldest messages.

    `most`: so many PENDING messages at most. Returns how many messages were evicted.
    """
    if failed := connection.execute(FIRST_FAILED).fetchone():
        return _evict(connection, failed[0], failed[1], reason, now)
    first = message_ids.highest_claimed_id(connection) + 1
    last = min(first + most - 1, message_ids.highest_id(connection))
    if last < first:
        return 0
    connection.execute(NEW_EVICTED, {"first_id": first, "last_id": last})
    return _evict(connection, first, last, reason, now)


def evict_older_than(connection: sqlite3.Connection, most: int, limit_us: int, now: float) -> int:
    """`evict_oldest` for what was captured before `limit_us`. Returns how many messages.

    `limit_us` is by the clock as it is set now. What the clock was set by since the capture is no
    age.
    """
    first = first_waiting(connection)
    captured_us = captured_at_us(connection, first)
    if captured_us is None:
        return 0
    set_by, last_set_alike = clock_steps.since(connection, first, captured_us)
    limit_us -= int(set_by * 1e6)
    if captured_us >= limit_us:
        return 0
    if last_set_alike is not None:
        most = min(most, last_set_alike - first + 1)
    batch_range = connection.execute(batch_ranges.RANGE_OF, {"id": first}).fetchone()
    if batch_range and batch_range[1] >= first:
        most = min(most, batch_range[1] - first + 1)
    row = {"id": first, "most": most, "limit": limit_us}
    (first_young,) = connection.execute(FIRST_YOUNG, row).fetchone()
    last_old = first_young - 1 if first_young else first + most - 1
    if batch_range and last_old < batch_range[1]:
        batch_ranges.cut(connection, first, batch_range[1], last_old)
    return evict_oldest(connection, last_old - first + 1, "older than max_age", now)


def evict_parked(connection: sqlite3.Connection, reason: str, now: float) -> int:
    """The oldest DEAD or IN_DOUBT batch range -> EVICTED. Returns how many messages."""
    parked = connection.execute(FIRST_PARKED).fetchone()
    return _evict(connection, parked[0], parked[1], reason, now) if parked else 0


def first_waiting(connection: sqlite3.Connection) -> int:
    """The id that `evict_oldest` would begin with, if there is one."""
    failed = connection.execute(FIRST_FAILED).fetchone()
    return int(failed[0]) if failed else message_ids.highest_claimed_id(connection) + 1


def captured_at_us(connection: sqlite3.Connection, message_id: int) -> int | None:
    """When the message was captured, in microseconds of the clock then; None if it has no row."""
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
    """Delete a batch range's messages, then join it with neighbours of the status it now has."""
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
