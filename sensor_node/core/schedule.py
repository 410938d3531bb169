"""How long to wait before the next try: the one place that knows about backoff.

The state (how many tries there were) lives in the database, so that a restart forgets nothing;
this module only turns it into a delay.
"""

from dataclasses import dataclass
from types import ModuleType

# 2^64 seconds is beyond any cap; clamping keeps huge attempt numbers from overflowing a float.
MAX_EXPONENT = 64
# A sink may ask for any Retry-After; more than an hour is more likely a mistake than a wish.
RETRY_AFTER_CAP_SECONDS = 3600.0
# The longest time for which the supervisor waits before it starts a child again.
RESTART_DELAY_CAP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """Full jitter under an exponential ceiling, with a floor."""

    initial_delay: float  # seconds: the ceiling after the first failure
    multiplier: float  # of the ceiling, for each further failure
    max_delay: float  # seconds: the ceiling grows no further

    def ceiling(self, failures: int) -> float:
        """The longest wait after so many failures in a row, in seconds."""
        return exponential(failures, self.initial_delay, self.multiplier, self.max_delay)

    def delay(self, failures: int) -> float:
        """A random wait in seconds: `max(initial_delay / 2, full_jitter(ceiling))`.

        The jitter comes after the cap, so that a fleet at the cap stays spread out, and the floor
        keeps a lucky draw from becoming a busy loop. Full jitter: "Exponential Backoff And
        Jitter", AWS Architecture Blog, 2015.
        """
        ceiling = self.ceiling(failures)
        library = load_library()
        # Without it the wait is not spread, but it is never too short.
        return max(self.initial_delay / 2, library.full_jitter(ceiling)) if library else ceiling

    @property
    def longest(self) -> float:
        """Seconds: no deadline is further ahead than this, unless the clock has jumped."""
        return max(self.max_delay, RETRY_AFTER_CAP_SECONDS)


def exponential(failures: int, initial: float, multiplier: float, cap: float) -> float:
    """`min(cap, initial * multiplier ** (failures - 1))`, for any number of failures.

    It needs no library, as the supervisor must not: children die where a disk cannot be read.
    """
    exponent = min(max(failures - 1, 0), MAX_EXPONENT)
    return float(min(cap, initial * multiplier**exponent))


def restart_delay(short_lives: int) -> float:
    """Seconds until a child that died young `short_lives` times in a row is started again."""
    if short_lives == 0:
        return 0.0
    return exponential(short_lives, 1.0, 2.0, RESTART_DELAY_CAP_SECONDS)


def load_library() -> ModuleType | None:
    """The library backoff; None if it cannot be loaded now, as when no more files may be opened.

    It brings asyncio with it: 40 ms, and 2 MiB in each process. So a process loads it with the
    first failure. Do so before a write transaction that will compute a delay, as others would have
    to wait for the disk.
    """
    try:
        import backoff
    except (ImportError, OSError):
        return None
    return backoff
