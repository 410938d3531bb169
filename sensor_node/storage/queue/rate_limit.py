"""`max_rate`: one row says when the next batch may go; each claim puts that off.

So the whole of the limit can be used by whoever has something to send.
"""

import sqlite3
from dataclasses import dataclass

from sensor_node.core.model import Claim

READ_NEXT_SEND = "SELECT next_send_at FROM sink"
CHARGE = """
UPDATE sink SET next_send_at = :seconds +
  CASE WHEN next_send_at BETWEEN :now - :late AND :now THEN next_send_at ELSE :now END
"""
# A claim that comes so much later than it was allowed to costs nothing of the rate: a process wakes
# a little late, or waits for the write lock. So much may be sent too much at once.
LATE_SECONDS = 0.1
# Who waits longer for the write lock than this has seen its holder killed.
STALE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ClaimPolicy:
    """How batches are claimed: most messages in one, most messages a second (0: no limit).

    `longest`: no deadline is honestly further ahead than this many seconds. `min_free`: bytes of
    the disk that claims leave to others while the log cannot be emptied.
    """

    batch_size: int
    max_rate: float
    longest: float
    at_most_once: bool
    min_free: int = 0

    def limit(self, limit: int) -> int:
        """A batch is at most a second's worth of the rate limit, so that sending is even."""
        return min(limit, max(1, int(self.max_rate))) if self.max_rate else limit

    def wait(self, next_send_at: float, now: float) -> float:
        """Seconds until the rate limit allows a batch.

        `now` may be older than what others have written meanwhile; but a time further ahead than
        that, and than a batch can ask for, comes of a clock that has jumped.
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
    """The claim, which puts off the next one by the time that it takes at the allowed rate."""
    if claim and policy.max_rate:
        seconds = claim.size / policy.max_rate
        connection.execute(CHARGE, {"now": now, "seconds": seconds, "late": LATE_SECONDS})
    return claim
