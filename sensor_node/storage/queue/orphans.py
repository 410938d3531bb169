"""Claims, whoever holds them; what becomes of those of dead processes, and of doubtful batches.

Each function is one step inside a transaction of the caller.
"""

import sqlite3

from sensor_node.storage.queue.batch_ranges import NEXT_FAILURE_ORDER, mark
from sensor_node.storage.queue.message_ids import MAX_ID

# Claims of what was claimed before: FAILED batch ranges have a settled_at, and keep it.
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
# Messages in one transaction, and at most one batch more.
PARK_CHUNK = 5000


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
    (failure_order,) = connection.execute(NEXT_FAILURE_ORDER).fetchone()
    row = {
        "first_id": first_id,
        "owner": owner,
        "status": status,
        "now": now,
        "failure_order": failure_order,
    }
    taken = connection.execute(RECLAIM, row).fetchone()
    if taken is None:
        return 0
    mark(connection, first_id, taken[0], status)
    return int(taken[0] - first_id + 1)


def park_doubtful(connection: sqlite3.Connection, now: float) -> int:
    """FAILED -> IN_DOUBT where the fate was ever unknown, a chunk of them. Returns how many."""
    parked = 0
    for first, last in connection.execute(DOUBTFUL).fetchall():
        if parked >= PARK_CHUNK:
            break
        connection.execute(PARK, {"first_id": first, "now": now})
        mark(connection, first, last, "IN_DOUBT")
        parked += int(last - first + 1)
    return parked
