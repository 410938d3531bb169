"""Looking messages up, for people: read-only, bounded by the caller's limit."""

import sqlite3
from dataclasses import dataclass
from typing import NamedTuple

from sensor_node.core.model import MessageStatus
from sensor_node.storage.journal import clock_steps
from sensor_node.storage.queue import batch_ranges, message_ids, orphans, retention

RECENT = """
SELECT * FROM message_status WHERE captured_us >= :since ORDER BY id DESC LIMIT :limit
"""
# By batch ranges, so that a few DEAD ones among millions are found without reading all messages.
# CROSS JOIN: SQLite keeps the order; left to itself it reads all messages for each batch range.
OF_RANGES = """
SELECT * FROM message_status
WHERE id IN (SELECT message.id FROM batch CROSS JOIN message
               ON message.id BETWEEN batch.first_id AND batch.last_id
             WHERE batch.status = :status
               AND coalesce(message.captured_us, message.timestamp_us) >= :since
             ORDER BY batch.first_id DESC, message.id DESC LIMIT :limit)
ORDER BY id DESC
"""
PENDING = """
SELECT * FROM message_status
WHERE id > :claimed AND captured_us >= :since ORDER BY id DESC LIMIT :limit
"""
ONE = "SELECT * FROM message_status WHERE id = :id"
# The first condition is the one of the index.
PARKED = """
SELECT first_id, last_id FROM batch
WHERE status IN ('DEAD', 'IN_DOUBT') AND status = :status AND first_id > :after
ORDER BY first_id LIMIT 1
"""

# Due later than they failed: for their own sake, not for the sink's. Claimed since it is UP. Of
# the oldest: `status` takes no longer with a million.
STUCK = """
SELECT count(*), max(last_error)
FROM (SELECT * FROM batch WHERE status = 'FAILED' ORDER BY first_id LIMIT 10000)
WHERE next_attempt_at > 0 AND first_id = last_id AND isolated IS NULL
  AND next_attempt_at > settled_at AND claimed_at >= :since
"""


# Of the newest batches, those that were delivered at the first try.
REQUESTS = """
SELECT coalesce(avg(settled_at - claimed_at), 0.0), coalesce(avg(last_id - first_id + 1), 0.0)
FROM (SELECT * FROM batch ORDER BY first_id DESC LIMIT 200)
WHERE status = 'SENT' AND attempts = 1 AND settled_at >= :since
"""


class Requests(NamedTuple):
    """How many seconds one took, and how many readings it had."""

    seconds: float
    readings: float


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message with its status; times in microseconds or wall seconds.

    `timestamp_us` is the reading's own time, `captured_us` when this node captured it.
    """

    id: int
    wire_id: str
    status: MessageStatus
    name: str
    value: float
    timestamp_us: int
    captured_us: int
    attempts: int
    next_attempt_at: float | None
    last_error: str | None


def messages(
    connection: sqlite3.Connection, status: MessageStatus | None, since_us: int, limit: int
) -> list[MessageRow]:
    """The newest messages of those captured `since_us`, newest first."""
    row: dict[str, object] = {"since": since_us, "limit": limit}
    if status is None:
        found = connection.execute(RECENT, row)
    elif status is MessageStatus.PENDING:
        found = connection.execute(
            PENDING, row | {"claimed": message_ids.highest_claimed_id(connection)}
        )
    else:
        found = connection.execute(OF_RANGES, row | {"status": status.value})
    return [_row(connection, *values) for values in found.fetchall()]


def message(connection: sqlite3.Connection, message_id: int) -> MessageRow | None:
    values = connection.execute(ONE, {"id": message_id}).fetchone()
    return _row(connection, *values) if values else None


def discarded_as(connection: sqlite3.Connection, message_id: int) -> str | None:
    """PURGED or EVICTED if that is what became of a message whose row is gone."""
    batch_range = connection.execute(batch_ranges.RANGE_OF, {"id": message_id}).fetchone()
    return batch_range[2] if batch_range and message_id <= batch_range[1] else None


def next_parked(connection: sqlite3.Connection, status: str, after: int) -> tuple[int, int] | None:
    """The first batch range of the status above the id `after`."""
    row = connection.execute(PARKED, {"status": status, "after": after}).fetchone()
    return (row[0], row[1]) if row else None


def stuck(connection: sqlite3.Connection, up_since: float) -> dict[str, object] | None:
    """How many messages of 10,000 batches fail by themselves while the sink is UP, and a reason."""
    count, reason = connection.execute(STUCK, {"since": up_since}).fetchone()
    return {"messages": count, "reason": reason} if count else None


def first_undelivered(connection: sqlite3.Connection) -> int:
    """The id of the oldest message that is still to be delivered, or of the next captured."""
    sending = [first for first, _, _ in orphans.sending(connection)]
    return min([retention.first_waiting(connection), *sending])


def oldest_undelivered_us(connection: sqlite3.Connection) -> int | None:
    """When the oldest message that is still to be delivered was captured, by the present clock."""
    return _captured_us(connection, first_undelivered(connection))


def oldest_pending_us(connection: sqlite3.Connection) -> int | None:
    """When the oldest message that nobody has taken yet was captured, by the present clock."""
    return _captured_us(connection, message_ids.highest_claimed_id(connection) + 1)


def requests(connection: sqlite3.Connection, since: float) -> Requests:
    """The mean of the newest deliveries since a wall time; zeros if there are none."""
    return Requests(*connection.execute(REQUESTS, {"since": since}).fetchone())


def _captured_us(connection: sqlite3.Connection, message_id: int) -> int | None:
    """By the present clock."""
    at = retention.captured_at_us(connection, message_id)
    return None if at is None else at + int(clock_steps.since(connection, message_id, at)[0] * 1e6)


def _row(
    connection: sqlite3.Connection,
    message_id: int,
    status: str,
    name: str,
    value: float,
    timestamp_us: int,
    attempts: int,
    next_attempt_at: float | None,
    last_error: str | None,
    captured_us: int,
) -> MessageRow:
    return MessageRow(
        id=message_id,
        wire_id=message_ids.stream_of(connection, message_id).wire_id(message_id),
        status=MessageStatus(status),
        name=name,
        value=value,
        timestamp_us=timestamp_us,
        captured_us=captured_us,
        attempts=attempts,
        next_attempt_at=(next_attempt_at or None) if status == MessageStatus.FAILED else None,
        last_error=last_error,
    )
