"""Which children hang, and what is done about it: rules without processes."""

import enum
from typing import Protocol

from sensor_node.supervision.roles import Role
from sensor_node.supervision.slots import Heartbeat

# Capture waits for another process's transaction at most this long.
HOLD_SECONDS = 5.0
# A child is killed so long after SIGABRT, which makes it print its stack.
ABORT_SECONDS = 2.0
# More than any step may take; a network process's request comes on top.
STEP_SECONDS = 30.0


class Liveness(enum.Enum):
    WELL = "well"
    HOLDS_LOCK = "holds the write lock too long"
    BLOCKS_LOCK = "was stopped on its way to the write lock"
    HANGS = "does not move"


class Observed(Protocol):
    """A child's process, as /proc shows it."""

    def is_stopped(self) -> bool: ...
    def waits_for_disk(self) -> bool: ...


def judge(heartbeat: Heartbeat, now: float, limit: float, child: Observed) -> Liveness:
    """`now` in monotonic seconds; `limit`: the seconds that a pass of its loop may take.

    Waiting for the write lock is no fault. But a process that is stopped while it waits may have
    the turnstile, and then nobody else gets the lock.

    Nor is it a fault to wait for a slow disk with the lock. A kill would not free the lock sooner,
    and would lose the readings that a generator has in memory.
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
