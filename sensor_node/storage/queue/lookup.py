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
# Goes by batch ranges, so that a few DEAD ones among millions are found without reading all
# messages. CROSS JOIN makes SQLite keep that order; otherwise it reads all messages for each range.
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
# The first condition repeats that of a partial index, so that SQLite uses it.
PARKED = """
SELECT first_id, last_id FROM batch
WHERE status IN ('DEAD', 'IN_DOUBT') AND status = :status AND first_id > :after
ORDER BY first_id LIMIT 1
"""

# Lone messages that have failed for their own sake: these are due later than they failed. They were
# claimed since the sink is UP. The limit keeps `status` fast with a million batches.
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
    """Means of some requests: how many seconds one took, and how many readings it had."""

    seconds: float
    readings: float


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message with its status.

    `wire_id`: what the sink knows it by. `timestamp_us`: the reading's own time; `captured_us`:
    when this node captured it; both in microseconds since 1970. `attempts`, `last_error`: of its
    batch. `next_attempt_at`: when it is due, in wall seconds; None unless it is FAILED, or if it is
    due ahead of all others.
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
    """The newest `limit` messages of those captured since `since_us`, newest first."""
    parameters: dict[str, object] = {"since": since_us, "limit": limit}
    if status is None:
        rows = connection.execute(RECENT, parameters)
    elif status is MessageStatus.PENDING:
        claimed = message_ids.highest_claimed_id(connection)
        rows = connection.execute(PENDING, parameters | {"claimed": claimed})
    else:
        rows = connection.execute(OF_RANGES, parameters | {"status": status.value})
    return [_message_row(connection, *row) for row in rows.fetchall()]


def message(connection: sqlite3.Connection, message_id: int) -> MessageRow | None:
    row = connection.execute(ONE, {"id": message_id}).fetchone()
    return _message_row(connection, *row) if row else None


def discarded_as(connection: sqlite3.Connection, message_id: int) -> str | None:
    """The status that a message without a row ended with: PURGED or EVICTED. None: no such id."""
    batch_range = connection.execute(batch_ranges.RANGE_OF, {"id": message_id}).fetchone()
    return batch_range[2] if batch_range and message_id <= batch_range[1] else None


def next_parked(connection: sqlite3.Connection, status: str, after: int) -> tuple[int, int] | None:
    """First and last id of the first batch range of the status above the id `after`."""
    row = connection.execute(PARKED, {"status": status, "after": after}).fetchone()
    return (row[0], row[1]) if row else None


def stuck(connection: sqlite3.Connection, up_since: float) -> dict[str, object] | None:
    """How many lone messages have failed for their own sake since the sink is UP, and a reason.

    Counts among the 10,000 oldest FAILED batches. `up_since`: wall seconds. None if there are none.
    """
    count, reason = connection.execute(STUCK, {"since": up_since}).fetchone()
    return {"messages": count, "reason": reason} if count else None


def first_undelivered(connection: sqlite3.Connection) -> int:
    """The id of the oldest message that is still to be delivered, or of the next captured."""
    sending = [first for first, _, _ in orphans.sending(connection)]
    return min([retention.first_waiting(connection), *sending])


def oldest_undelivered_us(connection: sqlite3.Connection) -> int | None:
    """When the oldest undelivered message was captured, in microseconds of the clock as set now."""
    return _captured_us(connection, first_undelivered(connection))


def oldest_pending_us(connection: sqlite3.Connection) -> int | None:
    """When the oldest PENDING message was captured, in microseconds of the clock as set now."""
    return _captured_us(connection, message_ids.highest_claimed_id(connection) + 1)


def requests(connection: sqlite3.Connection, since: float) -> Requests:
    """The means of the newest deliveries since that wall time; zeros if there are none."""
    return Requests(*connection.execute(REQUESTS, {"since": since}).fetchone())


def _captured_us(connection: sqlite3.Connection, message_id: int) -> int | None:
    """When it was captured, plus what the clock was set by since then."""
    stored_us = retention.captured_at_us(connection, message_id)
    if stored_us is None:
        return None
    set_by, _ = clock_steps.since(connection, message_id, stored_us)
    return stored_us + int(set_by * 1e6)


def _message_row(
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
