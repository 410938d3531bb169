"""The present time, as a value that is passed to all that need it."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Clocks that are read within this time tell the same instant.
SAME_INSTANT_SECONDS = 0.001
MOST_READS = 10


def utc_of(wall: float) -> datetime:
    """Wall seconds as a date, up to the year 9999: on some boards gmtime() fails after 2038."""
    return EPOCH + timedelta(seconds=wall)


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant on three clocks, all in seconds."""

    monotonic: float  # for rates and waits
    wall: float  # since 1970, UTC; only for what is stored
    boottime: float  # as monotonic, but it goes on while the machine is suspended

    @property
    def wall_us(self) -> int:
        """Microseconds since 1970."""
        return int(self.wall * 1_000_000)


class Clock(Protocol):
    """Tells the present moment; tests pass one that they set by hand."""

    def now(self) -> Moment: ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> Moment:
        """Read the clocks, again if the process was interrupted between two of them.

        Else a reading's wall time would be wrong by the time of the interruption.
        """
        for _ in range(MOST_READS):
            began = time.monotonic()
            moment = Moment(began, time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))
            if time.monotonic() - began < SAME_INSTANT_SECONDS:
                break
        return moment
