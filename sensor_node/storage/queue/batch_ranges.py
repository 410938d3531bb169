"""The batches: ranges that cover the ids from 1 to the highest claimed, without hole or overlap.

Ids above the highest range are PENDING. A range that is SENDING is changed only by its owner, under
the fence, or taken back once its owner is dead. Each function is one step inside a transaction of
the caller.
"""

import sqlite3

from sensor_node.core.model import Claim, Message
from sensor_node.core.settlement import DUE_FIRST, BatchRecord, Settlement, SinkRecord
from sensor_node.storage.queue import message_ids

INSERT_CLAIM = """
INSERT INTO batch(first_id, last_id, status, attempts, owner, claimed_at)
VALUES (:first_id, :last_id, 'SENDING', 1, :owner, :now)
"""
INSERT_FAILED = """
INSERT INTO batch(first_id, last_id, status, settled_at, next_attempt_at)
VALUES (:first_id, :last_id, 'FAILED', :now, :now)
"""
CLAIM_AGAIN = """
UPDATE batch
SET status = 'SENDING', attempts = attempts + 1, owner = :owner, claimed_at = :now
WHERE first_id = :first_id AND status = 'FAILED'
RETURNING first_id, last_id, attempts, requeue_count
"""
# A damaged row counts as missing. So does an infinite value: JSON has none, and a sink would refuse
# it. `value - value` is 0 for finite values only. A comparison with the greatest float would not
# do: SQLite on 32-bit ARM reads it, written in SQL, as infinity.
READ_MESSAGES = """
SELECT message.id, message.name, message.value, message.timestamp_us
FROM batch JOIN message ON message.id BETWEEN batch.first_id AND batch.last_id
WHERE batch.first_id = :first_id AND batch.last_id = :last_id
  AND batch.status = 'SENDING' AND batch.owner = :owner AND batch.attempts = :attempt
  AND typeof(message.value) = 'real' AND message.value - message.value = 0
  AND typeof(message.timestamp_us) = 'integer' AND typeof(message.name) = 'text'
ORDER BY message.id
"""
# The fence: the same range, still SENDING, by the same owner, in the same attempt.
READ_BATCH = """
SELECT last_id - first_id + 1, failures, answers, failed_epoch, accepted_at_failure,
       accepted_at_refusal, fate_unknown, alone, unsent, isolated IS NOT NULL, next_attempt_at,
       (SELECT accepted_at_failure FROM suspect WHERE name = batch.isolated AND suspect.isolated)
FROM batch
WHERE first_id = :first_id AND last_id = :last_id
  AND status = 'SENDING' AND owner = :owner AND attempts = :attempt
"""
SETTLE = """
UPDATE batch
SET status = :status, owner = NULL, settled_at = :now, next_attempt_at = :next_attempt_at,
    failure_order = :failure_order, failures = :failures, answers = :answers,
    failed_epoch = :failed_epoch, accepted_at_failure = :accepted_at_failure,
    accepted_at_refusal = :accepted_at_refusal,
    fate_unknown = :fate_unknown, alone = :alone, unsent = :unsent,
    isolated = CASE :status WHEN 'FAILED' THEN isolated END, last_error = :last_error
WHERE first_id = :first_id AND last_id = :last_id
  AND status = 'SENDING' AND owner = :owner AND attempts = :attempt
RETURNING 1
"""
NEXT_FAILURE_ORDER = """
SELECT 1 + max(
  coalesce((SELECT max(failure_order) FROM batch
            WHERE status = 'FAILED' AND isolated IS NULL AND fate_unknown = 0), 0),
  coalesce((SELECT max(failure_order) FROM batch
            WHERE status = 'FAILED' AND isolated IS NULL AND fate_unknown = 1), 0))
"""
NEXT_ISOLATED_FAILURE_ORDER = """
SELECT 1 + max(
  coalesce((SELECT max(failure_order) FROM batch
            WHERE status = 'FAILED' AND isolated = own.isolated AND fate_unknown = 0), 0),
  coalesce((SELECT max(failure_order) FROM batch
            WHERE status = 'FAILED' AND isolated = own.isolated AND fate_unknown = 1), 0))
FROM batch AS own WHERE first_id = :first_id
"""
MARK = """
UPDATE message SET status = :status
WHERE id BETWEEN :first_id AND :last_id AND status <> :status
"""
SHORTEN = (
    "UPDATE batch SET last_id = :cut WHERE first_id = :first_id AND last_id > :cut RETURNING 1"
)
COPY_RIGHT = """
INSERT INTO batch(first_id, last_id, status, attempts, requeue_count, owner, claimed_at, settled_at,
                  next_attempt_at, failure_order, failures, answers, failed_epoch,
                  accepted_at_failure, accepted_at_refusal, fate_unknown, alone, unsent,
                  isolated, last_error)
SELECT :cut + 1, :last_id, status, attempts, requeue_count, owner, claimed_at, settled_at,
       next_attempt_at, failure_order, failures, answers, failed_epoch, accepted_at_failure,
       accepted_at_refusal, fate_unknown, alone, unsent, isolated, last_error
FROM batch WHERE first_id = :first_id
"""
# Leaves out what was refused or halved, and what has failed for its own sake and may yet be halved.
JOINABLE = """
SELECT last_id, fate_unknown, requeue_count FROM batch
WHERE first_id = :first_id AND status = 'FAILED' AND isolated IS NULL AND failures = 0
  AND failed_epoch IS NULL AND accepted_at_refusal IS NULL AND unsent = 0
  AND next_attempt_at > :after AND next_attempt_at <= :now
"""
DROP = "DELETE FROM batch WHERE first_id > :first_id AND first_id <= :last_id"
LENGTHEN = "UPDATE batch SET last_id = :last_id, alone = 0 WHERE first_id = :first_id"
RANGE_OF = """
SELECT first_id, last_id, status FROM batch WHERE first_id <= :id ORDER BY first_id DESC LIMIT 1
"""
REQUEUE = """
UPDATE batch
SET status = 'FAILED', requeue_count = requeue_count + 1, next_attempt_at = :now,
    failure_order = :failure_order, failures = 0,
    answers = 0, failed_epoch = NULL, accepted_at_failure = NULL, accepted_at_refusal = NULL,
    fate_unknown = 0, alone = 0, isolated = NULL
WHERE first_id = :first_id AND status IN ('DEAD', 'IN_DOUBT', 'SENT')
"""


def oldest_pending(connection: sqlite3.Connection, limit: int) -> tuple[int, int] | None:
    """First and last of the oldest PENDING ids: up to `limit` of them, all of one stream."""
    first = message_ids.highest_claimed_id(connection) + 1
    last = min(
        first + limit - 1,
        message_ids.highest_id(connection),
        message_ids.end_of_stream(connection, first),
    )
    return None if last < first else (first, last)


def claim_fresh(
    connection: sqlite3.Connection, sink: SinkRecord, owner: str, ids: tuple[int, int], now: float
) -> Claim:
    """PENDING -> SENDING: a new range on top of all others.

    `ids`: first and last, beginning with the oldest PENDING one; as oldest_pending(), or fewer.
    """
    first, last = ids
    row = {"first_id": first, "last_id": last, "owner": owner, "now": now}
    connection.execute(INSERT_CLAIM, row)
    stream = message_ids.stream_of(connection, first)
    return Claim(first, last, owner, 1, 0, sink.epoch, sink.accepted_total, not sink.up, stream)


def claim_again(
    connection: sqlite3.Connection,
    sink: SinkRecord,
    owner: str,
    batch_range: tuple[int, int],
    limit: int,
    now: float,
) -> Claim:
    """FAILED -> SENDING for the first `limit` messages of the range; the rest stays FAILED."""
    cut(connection, *batch_range, batch_range[0] + limit - 1)
    row = {"first_id": batch_range[0], "owner": owner, "now": now}
    first, last, attempts, requeue_count = connection.execute(CLAIM_AGAIN, row).fetchone()
    stream = message_ids.stream_of(connection, first)
    return Claim(
        first,
        last,
        owner,
        attempts,
        requeue_count,
        sink.epoch,
        sink.accepted_total,
        not sink.up,
        stream,
    )


def insert_failed(connection: sqlite3.Connection, first_id: int, last_id: int, now: float) -> None:
    """PENDING -> FAILED for the oldest PENDING ids: never tried, and due now."""
    row = {"first_id": first_id, "last_id": last_id, "now": now}
    connection.execute(INSERT_FAILED, row)
    mark(connection, first_id, last_id, "FAILED")


def read_messages(connection: sqlite3.Connection, claim: Claim) -> list[Message]:
    """The messages of the claim, by id; none if the claim is lost."""
    rows = connection.execute(READ_MESSAGES, _fence(claim)).fetchall()
    return list(map(Message._make, rows))


def read_batch(connection: sqlite3.Connection, claim: Claim) -> BatchRecord | None:
    """The batch of the claim, or None if the claim is lost."""
    row = connection.execute(READ_BATCH, _fence(claim)).fetchone()
    if row is None:
        return None
    size, failures, answers, epoch, at_failure, at_refusal, *flags, due_at, at_isolated = row
    fate_unknown, alone, unsent, isolated = map(bool, flags)
    return BatchRecord(
        size=size,
        failures=failures,
        answers=answers,
        failed_epoch=epoch,
        accepted_at_failure=at_failure,
        accepted_at_refusal=at_refusal,
        fate_unknown=fate_unknown,
        alone=alone,
        unsent=unsent,
        isolated=isolated,
        due_at=due_at,
        accepted_at_isolated_failure=at_isolated,
    )


def settle(
    connection: sqlite3.Connection, claim: Claim, settled: Settlement, error: str, now: float
) -> bool:
    """SENDING -> settled.status, then halved if settled.halve. False if the claim is lost."""
    batch = settled.batch
    failure_order = (
        next_failure_order(connection, claim.first_id, batch) if settled.status == "FAILED" else 0
    )
    values = {
        "status": settled.status,
        "now": now,
        "next_attempt_at": settled.next_attempt_at,
        "failure_order": failure_order,
        "failures": batch.failures,
        "answers": batch.answers,
        "failed_epoch": batch.failed_epoch,
        "accepted_at_failure": batch.accepted_at_failure,
        "accepted_at_refusal": batch.accepted_at_refusal,
        "fate_unknown": int(batch.fate_unknown),
        "alone": int(batch.alone),
        "unsent": int(batch.unsent),
        "last_error": error or None,
    }
    if connection.execute(SETTLE, _fence(claim) | values).fetchone() is None:
        return False
    mark(connection, claim.first_id, claim.last_id, settled.status)
    if settled.halve:
        cut(connection, claim.first_id, claim.last_id, claim.first_id + claim.size // 2 - 1)
    return True


def next_failure_order(connection: sqlite3.Connection, first_id: int, batch: BatchRecord) -> int:
    """Higher than that of each FAILED batch; if set apart, than of those of the same sensor."""
    query = NEXT_ISOLATED_FAILURE_ORDER if batch.isolated else NEXT_FAILURE_ORDER
    return int(connection.execute(query, {"first_id": first_id}).fetchone()[0])


def cut(connection: sqlite3.Connection, first_id: int, last_id: int, at: int) -> None:
    """Make two batch ranges of one: up to the id `at`, and what is above it, alike in all else.

    Changes nothing if nothing is above it.
    """
    row = {"first_id": first_id, "last_id": last_id, "cut": at}
    if connection.execute(SHORTEN, row).fetchone():
        connection.execute(COPY_RIGHT, row)


def join(
    connection: sqlite3.Connection, batch_range: tuple[int, int], most: int, now: float
) -> tuple[int, int]:
    """Join a FAILED range with those above it, up to `most` messages, if none may be at fault.

    Otherwise each message that was a probe would be a request of its own again. Returns the first
    and last id of the range that comes of it.
    """
    first, last = batch_range
    end = min(first + most - 1, message_ids.end_of_stream(connection, first))
    row = {"first_id": first, "after": DUE_FIRST, "now": now}
    own = joinable = connection.execute(JOINABLE, row).fetchone()
    while joinable and joinable[1:] == own[1:] and joinable[0] <= end:
        last = joinable[0]
        joinable = connection.execute(JOINABLE, row | {"first_id": last + 1}).fetchone()
    if last > batch_range[1]:
        connection.execute(DROP, {"first_id": first, "last_id": last})
        connection.execute(LENGTHEN, {"first_id": first, "last_id": last})
    return first, last


def mark(connection: sqlite3.Connection, first_id: int, last_id: int, status: str) -> None:
    """Set the messages' own status, for people who look at the table `message` alone."""
    connection.execute(MARK, {"first_id": first_id, "last_id": last_id, "status": status})


def requeue(connection: sqlite3.Connection, message_id: int, last_id: int, now: float) -> int:
    """DEAD, IN_DOUBT or SENT -> FAILED, due now, for ids from `message_id` to `last_id`.

    It ends with the batch range of `message_id`. Returns how many messages; 0 if that range is in
    another status.
    """
    batch_range = connection.execute(RANGE_OF, {"id": message_id}).fetchone()
    if (
        not batch_range
        or message_id > batch_range[1]
        or batch_range[2] not in ("DEAD", "IN_DOUBT", "SENT")
    ):
        return 0
    first, last = max(batch_range[0], message_id), min(batch_range[1], last_id)
    if batch_range[0] < first:
        cut(connection, batch_range[0], batch_range[1], first - 1)
    if last < batch_range[1]:
        cut(connection, first, batch_range[1], last)
    (failure_order,) = connection.execute(NEXT_FAILURE_ORDER).fetchone()
    connection.execute(REQUEUE, {"first_id": first, "now": now, "failure_order": failure_order})
    mark(connection, first, last, "FAILED")
    return int(last - first + 1)


def _fence(claim: Claim) -> dict[str, object]:
    return {
        "first_id": claim.first_id,
        "last_id": claim.last_id,
        "owner": claim.owner,
        "attempt": claim.attempt,
    }
