"""Finds all claims, takes back those of dead processes, and parks batches whose fate is unknown.

Each function is one step inside a transaction of the caller.
"""

import sqlite3

from sensor_node.storage.queue.batch_ranges import NEXT_FAILURE_ORDER, mark
from sensor_node.storage.queue.message_ids import MAX_ID

# Claims of what was FAILED: such a batch range has a settled_at, and keeps it while it is SENDING.
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
SET status = :status, owner = NULL, settled_at = :now, next_attempt_at = :now,
    failure_order = :failure_order,
    fate_unknown = 1, isolated = CASE :status WHEN 'FAILED' THEN isolated END,
    last_error = 'the process that was sending it died'
WHERE first_id = :first_id AND status = 'SENDING' AND owner = :owner
RETURNING last_id
"""
DOUBTFUL = """
SELECT first_id, last_id FROM batch
WHERE status = 'FAILED' AND fate_unknown > 0 LIMIT 100
"""
PARK = """
UPDATE batch SET status = 'IN_DOUBT', settled_at = :now, isolated = NULL WHERE first_id = :first_id
"""
# When so many messages are parked, the transaction ends; its last batch may exceed that.
PARK_CHUNK = 5000


def sending(connection: sqlite3.Connection) -> list[tuple[int, int, str]]:
    """First id, last id and owner of every claim, highest ids first.

    The tally says how many messages are SENDING. So the search for claims of fresh messages, from
    the highest id down, can end with the last of them.
    """
    (in_flight,) = connection.execute(IN_FLIGHT).fetchone()
    if not in_flight:
        return []
    claims = connection.execute(CLAIMS_AGAIN).fetchall()
    missing = in_flight - sum(last - first + 1 for first, last, _ in claims)
    below = MAX_ID
    while missing > 0:
        claim = connection.execute(NEXT_FRESH_CLAIM, {"below": below}).fetchone()
        if claim is None:
            break
        claims.append(claim)
        first, last, _ = claim
        missing -= last - first + 1
        below = first
    return sorted(claims, reverse=True)


def reclaim(
    connection: sqlite3.Connection, first_id: int, owner: str, status: str, now: float
) -> int:
    """SENDING -> `status`, FAILED or IN_DOUBT, for a dead owner's claim. Returns how many messages.

    0 if the claim is not there any more.
    """
    (failure_order,) = connection.execute(NEXT_FAILURE_ORDER).fetchone()
    row = {
        "first_id": first_id,
        "owner": owner,
        "status": status,
        "now": now,
        "failure_order": failure_order,
    }
    reclaimed = connection.execute(RECLAIM, row).fetchone()
    if reclaimed is None:
        return 0
    (last_id,) = reclaimed
    mark(connection, first_id, last_id, status)
    return int(last_id - first_id + 1)


def park_doubtful(connection: sqlite3.Connection, now: float) -> int:
    """FAILED -> IN_DOUBT for a chunk of those whose fate is unknown. Returns how many messages."""
    parked = 0
    for first, last in connection.execute(DOUBTFUL).fetchall():
        if parked >= PARK_CHUNK:
            break
        connection.execute(PARK, {"first_id": first, "now": now})
        mark(connection, first, last, "IN_DOUBT")
        parked += int(last - first + 1)
    return parked
