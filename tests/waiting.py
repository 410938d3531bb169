"""Waiting for what another thread or process does: a condition and a deadline, never a sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
POLL_SECONDS = 0.02


def wait_until(
    condition: Callable[[], Found],
    deadline: float = 30.0,
    what: str = "the condition",
    detail: Callable[[], object] | None = None,
) -> Found:
    """The first true value of `condition()`, asked every 20 ms and once more at the deadline.

    Raises AssertionError with `what` and with what `detail()` says (a log, a summary).
    """
    end = time.monotonic() + deadline
    while True:
        last = time.monotonic() >= end
        if found := condition():
            return found
        if last:
            break
        time.sleep(POLL_SECONDS)
    more = f"\n{detail()}" if detail else ""
    raise AssertionError(f"not within {deadline:g} s: {what}{more}")
