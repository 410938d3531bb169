"""The batches: tiles that cover the ids from 1 to the highest claimed, without hole or overlap.

Each function is one step inside a transaction of the caller. What lies above the highest tile is
PENDING; a tile is changed only by its owner (the fence), by a person's requeue, or by retention.
"""

import sqlite3

from sensor_node.model import Claim, Message, Stream
from sensor_node.settlement import BatchRecord, Settlement, SinkRecord

CAPTURED = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'message'), 0)"
CLAIMED = "SELECT coalesce((SELECT last_id FROM batch ORDER BY first_id DESC LIMIT 1), 0)"

STREAM_OF = """
SELECT first_id, name, wire_first, node FROM stream
WHERE first_id <= :id ORDER BY first_id DESC LIMIT 1
"""
NEXT_STREAM = "SELECT min(first_id) FROM stream WHERE first_id > :id"
MAX_ID = 2**63 - 1

INSERT_CLAIM = """
INSERT INTO batch(first_id, last_id, status, attempts, owner, claimed_at)
VALUES (:first_id, :last_id, 'SENDING', 1, :owner, :now)
"""
CLAIM_AGAIN = """
UPDATE batch
SET status = 'SENDING', attempts = attempts + 1, owner = :owner, claimed_at = :now
WHERE first_id = :first_id AND status = 'FAILED'
RETURNING first_id, last_id, attempts, round
"""
# A damaged row counts as missing: JSON has no nan and no infinity, and a sink would refuse it.
READ_MESSAGES = """
SELECT message.id, message.name, message.value, message.timestamp_us
FROM batch JOIN message ON message.id BETWEEN batch.first_id AND batch.last_id
WHERE batch.first_id = :first_id AND batch.last_id = :last_id
  AND batch.status = 'SENDING' AND batch.owner = :owner AND batch.attempts = :attempt
  AND typeof(message.value) = 'real' AND abs(message.value) <= 1.7976931348623157e308
  AND typeof(message.timestamp_us) = 'integer'
ORDER BY message.id
"""
# The fence of every settle: still SENDING, still ours, still the same attempt.
READ_BATCH = """
SELECT last_id - first_id + 1, attempts, answers, failed_epoch, failed_successes,
       refused_successes, fate_unknown, next_attempt_at
FROM batch
WHERE first_id = :first_id AND last_id = :last_id
  AND status = 'SENDING' AND owner = :owner AND attempts = :attempt
"""
SETTLE = """
UPDATE batch
SET status = :status, owner = NULL, settled_at = :now, next_attempt_at = :next_attempt_at,
    turn = :turn, answers = :answers, failed_epoch = :failed_epoch,
    failed_successes = :failed_successes, refused_successes = :refused_successes,
    fate_unknown = :fate_unknown, last_error = :last_error
WHERE first_id = :first_id AND last_id = :last_id
  AND status = 'SENDING' AND owner = :owner AND attempts = :attempt
RETURNING 1
"""
GIVE_BACK = """
UPDATE batch
SET status = 'FAILED', owner = NULL, settled_at = :now, next_attempt_at = :due_at, turn = :turn,
    last_error = :last_error
WHERE first_id = :first_id AND last_id = :last_id
  AND status = 'SENDING' AND owner = :owner AND attempts = :attempt
"""
NEXT_TURN = """
SELECT 1 + max(
  coalesce((SELECT max(turn) FROM batch WHERE status = 'FAILED' AND fate_unknown = 0), 0),
  coalesce((SELECT max(turn) FROM batch WHERE status = 'FAILED' AND fate_unknown = 1), 0))
"""
MARK = """
UPDATE message SET status = :status
WHERE id BETWEEN :first_id AND :last_id AND status <> :status
"""
SHORTEN = (
    "UPDATE batch SET last_id = :cut WHERE first_id = :first_id AND last_id > :cut RETURNING 1"
)
COPY_RIGHT = """
INSERT INTO batch(first_id, last_id, status, attempts, round, owner, claimed_at, settled_at,
                  next_attempt_at, turn, answers, failed_epoch, failed_successes,
                  refused_successes, fate_unknown, last_error)
SELECT :cut + 1, :last_id, status, attempts, round, owner, claimed_at, settled_at,
       next_attempt_at, turn, answers, failed_epoch, failed_successes,
       refused_successes, fate_unknown, last_error
FROM batch WHERE first_id = :first_id
"""
TILE_OF = """
SELECT first_id, last_id, status FROM batch WHERE first_id <= :id ORDER BY first_id DESC LIMIT 1
"""
REQUEUE = """
UPDATE batch
SET status = 'FAILED', round = round + 1, next_attempt_at = :now, turn = :turn, answers = 0,
    failed_epoch = NULL, failed_successes = NULL, refused_successes = NULL, fate_unknown = 0
WHERE first_id = :first_id AND status IN ('DEAD', 'IN_DOUBT', 'SENT')
"""
# Claims of what was claimed before: FAILED tiles have a settled_at, and keep it.
CLAIMS_AGAIN = """
SELECT first_id, last_id, owner FROM batch WHERE status = 'SENDING' AND settled_at IS NOT NULL
"""
NEXT_FRESH_CLAIM = """
SELECT first_id, last_id, owner FROM batch
WHERE first_id < :below AND status = 'SENDING' AND settled_at IS NULL
ORDER BY first_id DESC LIMIT 1
"""
IN_FLIGHT = "SELECT n FROM tally WHERE status = 'SENDING'"
RECLAIM = """
UPDATE batch
SET status = :status, owner = NULL, settled_at = :now, next_attempt_at = :now, turn = :turn,
    fate_unknown = 1, last_error = 'the process that was sending it died'
WHERE first_id = :first_id AND status = 'SENDING' AND owner = :owner
RETURNING last_id
"""
DOUBTFUL = """
SELECT first_id, last_id FROM batch
WHERE status = 'FAILED' AND fate_unknown = 1 LIMIT 100
"""
PARK = "UPDATE batch SET status = 'IN_DOUBT', settled_at = :now WHERE first_id = :first_id"
# Messages in one transaction, and at most one batch more.
PARK_BITE = 5000


def captured(connection: sqlite3.Connection) -> int:
    """The highest id ever given."""
    return int(connection.execute(CAPTURED).fetchone()[0])


def claimed(connection: sqlite3.Connection) -> int:
    """The highest id that a tile covers."""
    return int(connection.execute(CLAIMED).fetchone()[0])


def stream_of(connection: sqlite3.Connection, message_id: int) -> Stream:
    return Stream(*connection.execute(STREAM_OF, {"id": message_id}).fetchone())


def end_of_stream(connection: sqlite3.Connection, message_id: int) -> int:
    """The last id of the stream that the message belongs to, as far as is known."""
    (following,) = connection.execute(NEXT_STREAM, {"id": message_id}).fetchone()
    return MAX_ID if following is None else following - 1


def claim_fresh(
    connection: sqlite3.Connection, sink: SinkRecord, owner: str, limit: int, now: float
) -> Claim | None:
    """PENDING -> SENDING: a new tile on top, at most to the end of its stream."""
    first = claimed(connection) + 1
    last = min(first + limit - 1, captured(connection), end_of_stream(connection, first))
    if last < first:
        return None
    row = {"first_id": first, "last_id": last, "owner": owner, "now": now}
    connection.execute(INSERT_CLAIM, row)
    stream = stream_of(connection, first)
    return Claim(first, last, owner, 1, 0, sink.epoch, sink.successes, not sink.up, stream)


def claim_again(
    connection: sqlite3.Connection,
    sink: SinkRecord,
    owner: str,
    tile: tuple[int, int],
    limit: int,
    now: float,
) -> Claim:
    """FAILED -> SENDING for the first `limit` messages of the tile; others stay as they are."""
    cut(connection, *tile, tile[0] + limit - 1)
    row = {"first_id": tile[0], "owner": owner, "now": now}
    first, last, attempts, round_ = connection.execute(CLAIM_AGAIN, row).fetchone()
    stream = stream_of(connection, first)
    return Claim(
        first, last, owner, attempts, round_, sink.epoch, sink.successes, not sink.up, stream
    )


def read_messages(connection: sqlite3.Connection, claim: Claim) -> list[Message]:
    """The messages under the fence: none if the claim is lost."""
    rows = connection.execute(READ_MESSAGES, _fence(claim)).fetchall()
    return list(map(Message._make, rows))


def read_batch(connection: sqlite3.Connection, claim: Claim) -> BatchRecord | None:
    """The batch under the fence, or None if the claim is lost."""
    row = connection.execute(READ_BATCH, _fence(claim)).fetchone()
    if row is None:
        return None
    size, attempts, answers, epoch, successes, refused, unknown, due_at = row
    return BatchRecord(size, attempts, answers, epoch, successes, refused, bool(unknown), due_at)


def settle(
    connection: sqlite3.Connection, claim: Claim, settled: Settlement, error: str, now: float
) -> bool:
    """SENDING -> settled.status, halved if so decided. False if the claim is lost."""
    batch = settled.batch
    (turn,) = connection.execute(NEXT_TURN).fetchone() if settled.status == "FAILED" else (0,)
    values = {
        "status": settled.status,
        "now": now,
        "next_attempt_at": settled.next_attempt_at,
        "turn": turn,
        "answers": batch.answers,
        "failed_epoch": batch.failed_epoch,
        "failed_successes": batch.failed_successes,
        "refused_successes": batch.refused_successes,
        "fate_unknown": int(batch.fate_unknown),
        "last_error": error or None,
    }
    if connection.execute(SETTLE, _fence(claim) | values).fetchone() is None:
        return False
    mark(connection, claim.first_id, claim.last_id, settled.status)
    if settled.halve:
        cut(connection, claim.first_id, claim.last_id, claim.first_id + claim.size // 2 - 1)
    return True


def cut(connection: sqlite3.Connection, first_id: int, last_id: int, at: int) -> None:
    """Make two tiles of one: to `at`, and from the next id on, alike in all else."""
    row = {"first_id": first_id, "last_id": last_id, "cut": at}
    if connection.execute(SHORTEN, row).fetchone():
        connection.execute(COPY_RIGHT, row)


def mark(connection: sqlite3.Connection, first_id: int, last_id: int, status: str) -> None:
    """The messages' own status, so that a look at the table alone tells the truth."""
    connection.execute(MARK, {"first_id": first_id, "last_id": last_id, "status": status})


def requeue(connection: sqlite3.Connection, message_id: int, last_id: int, now: float) -> int:
    """DEAD, IN_DOUBT or SENT -> FAILED, due now, for ids from `message_id` on in its tile.

    Returns how many; 0 if its tile is in another status.
    """
    tile = connection.execute(TILE_OF, {"id": message_id}).fetchone()
    if not tile or message_id > tile[1] or tile[2] not in ("DEAD", "IN_DOUBT", "SENT"):
        return 0
    first, last = max(tile[0], message_id), min(tile[1], last_id)
    if tile[0] < first:
        cut(connection, tile[0], tile[1], first - 1)
    if last < tile[1]:
        cut(connection, first, tile[1], last)
    (turn,) = connection.execute(NEXT_TURN).fetchone()
    connection.execute(REQUEUE, {"first_id": first, "now": now, "turn": turn})
    mark(connection, first, last, "FAILED")
    return int(last - first + 1)


def halve(
    connection: sqlite3.Connection, claim: Claim, error: str, due_at: float, now: float
) -> bool:
    """SENDING -> two FAILED halves, or one FAILED message, of a batch that was not sent."""
    batch = read_batch(connection, claim)
    if batch is None:
        return False
    (turn,) = connection.execute(NEXT_TURN).fetchone()
    values = {"now": now, "due_at": due_at, "turn": turn, "last_error": error or None}
    connection.execute(GIVE_BACK, _fence(claim) | values)
    mark(connection, claim.first_id, claim.last_id, "FAILED")
    if claim.size > 1:
        cut(connection, claim.first_id, claim.last_id, claim.first_id + claim.size // 2 - 1)
    return True


def sending(connection: sqlite3.Connection) -> list[tuple[int, int, str]]:
    """First id, last id and owner of every claim, newest first.

    For those of fresh messages the table is read from the top to the last of them, and not beyond.
    """
    (in_flight,) = connection.execute(IN_FLIGHT).fetchone()
    if not in_flight:
        return []
    found = connection.execute(CLAIMS_AGAIN).fetchall()
    left = in_flight - sum(last - first + 1 for first, last, _ in found)
    below = MAX_ID
    while left > 0 and (claim := connection.execute(NEXT_FRESH_CLAIM, {"below": below}).fetchone()):
        found.append(claim)
        left -= claim[1] - claim[0] + 1
        below = claim[0]
    return sorted(found, reverse=True)


def reclaim(
    connection: sqlite3.Connection, first_id: int, owner: str, status: str, now: float
) -> int:
    """SENDING -> FAILED (at-most-once: IN_DOUBT) for a dead owner's claim. Returns how many."""
    (turn,) = connection.execute(NEXT_TURN).fetchone()
    row = {"first_id": first_id, "owner": owner, "status": status, "now": now, "turn": turn}
    taken = connection.execute(RECLAIM, row).fetchone()
    if taken is None:
        return 0
    mark(connection, first_id, taken[0], status)
    return int(taken[0] - first_id + 1)


def park_doubtful(connection: sqlite3.Connection, now: float) -> int:
    """FAILED -> IN_DOUBT where the fate was ever unknown, a bite of them. Returns how many."""
    parked = 0
    for first, last in connection.execute(DOUBTFUL).fetchall():
        if parked >= PARK_BITE:
            break
        connection.execute(PARK, {"first_id": first, "now": now})
        mark(connection, first, last, "IN_DOUBT")
        parked += int(last - first + 1)
    return parked


def _fence(claim: Claim) -> dict[str, object]:
    return {
        "first_id": claim.first_id,
        "last_id": claim.last_id,
        "owner": claim.owner,
        "attempt": claim.attempt,
    }
