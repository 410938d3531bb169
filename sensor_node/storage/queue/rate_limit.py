"""`max_rate`: one row says when the next batch may be sent, and each claim puts that off.

All senders share that row, so one that has readings may use the whole rate.
"""

import sqlite3
from dataclasses import dataclass

from sensor_node.core.model import Claim

READ_NEXT_SEND = "SELECT next_send_at FROM sink"
CHARGE = """
UPDATE sink SET next_send_at = :seconds +
  CASE WHEN next_send_at BETWEEN :now - :late AND :now THEN next_send_at ELSE :now END
"""
# A claim that comes up to this much after it was allowed loses nothing of the rate: a process wakes
# up late, or waits for the write lock. The price: so many seconds' worth may be sent too early.
LATE_SECONDS = 0.1
# Nobody waits longer for the write lock than this: a holder that hangs is killed before.
STALE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ClaimPolicy:
    """How batches are claimed.

    `batch_size`: most messages in one batch. `max_rate`: most messages a second; 0: no limit.
    `longest`: the longest wait for a next attempt, in seconds; a time further ahead comes of a
    clock that has jumped. `at_most_once`: never send again what the sink may have. `min_free`:
    bytes of the disk that claims leave to others while the log cannot be emptied.
    """

    batch_size: int
    max_rate: float
    longest: float
    at_most_once: bool
    min_free: int = 0

    def limit(self, limit: int) -> int:
        """`limit`, or a second's worth of the rate limit if that is less: sending is even."""
        return min(limit, max(1, int(self.max_rate))) if self.max_rate else limit

    def wait(self, next_send_at: float, now: float) -> float:
        """Seconds until the rate limit allows a batch.

        One batch puts the next off by batch_size / max_rate at most, and `now` is at most one wait
        for the write lock old. A time further ahead than both comes of a clock that has jumped, and
        does not count.
        """
        if (
            not self.max_rate
            or next_send_at - now > self.batch_size / self.max_rate + STALE_SECONDS
        ):
            return 0.0
        return max(0.0, next_send_at - now)


def next_send_at(connection: sqlite3.Connection) -> float:
    return float(connection.execute(READ_NEXT_SEND).fetchone()[0])


def may_send(connection: sqlite3.Connection, policy: ClaimPolicy, now: float) -> bool:
    return not policy.wait(next_send_at(connection), now)


def charge(
    connection: sqlite3.Connection, policy: ClaimPolicy, now: float, claim: Claim | None
) -> Claim | None:
    """Put off the next claim by the time that this one takes at `max_rate`. Returns the claim."""
    if claim and policy.max_rate:
        seconds = claim.size / policy.max_rate
        connection.execute(CHARGE, {"now": now, "seconds": seconds, "late": LATE_SECONDS})
    return claim
