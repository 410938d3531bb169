"""Which children hang, and what is done about it: rules without processes."""

import enum
from typing import Protocol

from sensor_node.supervision.roles import Role
from sensor_node.supervision.slots import Heartbeat

# P1: capture waits for another process's transaction at most this long.
HOLD_SECONDS = 5.0
# A child that was asked for its stack is killed this much later.
ABORT_SECONDS = 2.0
# More than any step may take; a network process's request comes on top.
STEP_SECONDS = 30.0


class Liveness(enum.Enum):
    WELL = "well"
    HOLDS_LOCK = "holds the write lock too long"
    BLOCKS_LOCK = "was stopped on its way to the write lock"
    HANGS = "does not move"


class Observed(Protocol):
    """A child, where a look into /proc tells what keeps it."""

    def is_stopped(self) -> bool: ...
    def waits_for_disk(self) -> bool: ...


def judge(heartbeat: Heartbeat, now: float, limit: float, child: Observed) -> Liveness:
    """`now` and `limit` in monotonic seconds.

    Waiting for the write lock is no fault. But who is stopped meanwhile may have the turnstile,
    and then nobody else gets the lock. Nor is waiting for a slow disk with the lock: a kill would
    give it to nobody sooner, and with a generator what it has in memory would be gone.
    """
    if heartbeat.holding_since is not None:
        late = now - heartbeat.holding_since > HOLD_SECONDS
        return Liveness.HOLDS_LOCK if late and not child.waits_for_disk() else Liveness.WELL
    if heartbeat.waiting_since is not None:
        late = now - heartbeat.waiting_since > HOLD_SECONDS
        return Liveness.BLOCKS_LOCK if late and child.is_stopped() else Liveness.WELL
    return Liveness.HANGS if now - heartbeat.beat > limit else Liveness.WELL


def step_limit(role: Role, request_timeout: float) -> float:
    """Seconds that one pass of the role's loop may take."""
    return STEP_SECONDS + (request_timeout if role.uses_network else 0.0)
