"""How long to wait before the next try: the one place that knows about backoff.

The state (how many tries there were) lives in the database, so that a restart forgets nothing;
this module only turns it into a delay.
"""

import itertools
from dataclasses import dataclass

import backoff

# 2^64 seconds is beyond any cap; clamping keeps huge attempt numbers from overflowing a float.
MAX_EXPONENT = 64
# A sink may ask for any Retry-After; more than an hour is more likely a mistake than a wish.
RETRY_AFTER_CAP_SECONDS = 3600.0
# How long the supervisor at most waits before it starts a child again.
RESTART_DELAY_CAP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """Full jitter under an exponential ceiling, with a floor. Delays in seconds."""

    initial_delay: float
    multiplier: float
    max_delay: float

    def ceiling(self, failures: int) -> float:
        """The longest wait after `failures` failures in a row (1 is the first)."""
        return exponential(failures, self.initial_delay, self.multiplier, self.max_delay)

    def delay(self, failures: int) -> float:
        """A random wait: `max(initial_delay / 2, full_jitter(ceiling))`.

        The jitter comes after the cap, so that a fleet at the cap stays spread out, and the floor
        keeps a lucky draw from becoming a busy loop. Full jitter: "Exponential Backoff And
        Jitter", AWS Architecture Blog, 2015.
        """
        return max(self.initial_delay / 2, backoff.full_jitter(self.ceiling(failures)))

    @property
    def longest(self) -> float:
        """No deadline that was set honestly is further ahead than this."""
        return max(self.max_delay, RETRY_AFTER_CAP_SECONDS)


def exponential(failures: int, initial: float, multiplier: float, cap: float) -> float:
    """`min(cap, initial * multiplier ** (failures - 1))`, for any number of failures."""
    exponent = min(max(failures - 1, 0), MAX_EXPONENT)
    delays = backoff.expo(base=multiplier, factor=initial, max_value=cap)
    next(delays)  # the generator first waits for a send()
    return float(next(itertools.islice(delays, exponent, None)))


def restart_delay(short_lives: int) -> float:
    """Seconds until a child that died young `short_lives` times in a row is started again."""
    if short_lives == 0:
        return 0.0
    return exponential(short_lives, 1.0, 2.0, RESTART_DELAY_CAP_SECONDS)
