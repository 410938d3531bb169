"""Which children hang, and what is done about it: rules without processes."""

import enum
from collections.abc import Callable

from sensor_node.supervision.slots import Signs

# P1: capture waits for another process's transaction at most this long.
HOLD_SECONDS = 5.0
# A child that was asked for its stack is killed this much later.
ABORT_SECONDS = 2.0
# More than any step may take; a network process's request comes on top.
STEP_SECONDS = 30.0


class Verdict(enum.Enum):
    WELL = "well"
    HOLDS_LOCK = "holds the write lock too long"
    BLOCKS_LOCK = "was stopped on its way to the write lock"
    HANGS = "does not move"


def judge(signs: Signs, now: float, limit: float, is_stopped: Callable[[], bool]) -> Verdict:
    """`now` and `limit` in monotonic seconds; `is_stopped` looks whether a SIGSTOP did it.

    Waiting for the write lock is no fault. But who is stopped meanwhile may have the turnstile,
    and then nobody else gets the lock.
    """
    if signs.holding_since is not None:
        held = now - signs.holding_since
        return Verdict.HOLDS_LOCK if held > HOLD_SECONDS else Verdict.WELL
    if signs.waiting_since is not None:
        waited = now - signs.waiting_since
        return Verdict.BLOCKS_LOCK if waited > HOLD_SECONDS and is_stopped() else Verdict.WELL
    return Verdict.HANGS if now - signs.beat > limit else Verdict.WELL


def step_limit(role: str, request_timeout: float) -> float:
    """Seconds that one turn of the role's loop may take."""
    return STEP_SECONDS + (request_timeout if role in ("sender", "retrier") else 0.0)
