"""What time it is, as a value that is handed to whoever needs it."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Clocks that are read within this long tell the same instant.
AS_ONE_SECONDS = 0.001
MOST_READS = 10


def utc_of(wall: float) -> datetime:
    """Wall seconds as a date, to the year 9999: on some boards gmtime() knows none after 2038."""
    return EPOCH + timedelta(seconds=wall)


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant on three clocks, all in seconds.

    `monotonic` drives rates and waits, `wall` (since 1970, UTC) is only for what is stored, and
    `boottime` goes on while the machine is suspended.
    """

    monotonic: float
    wall: float
    boottime: float

    @property
    def wall_us(self) -> int:
        """Microseconds since 1970."""
        return int(self.wall * 1_000_000)


class Clock(Protocol):
    """Tells the present moment; tests hand in one that they turn by hand."""

    def now(self) -> Moment: ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> Moment:
        """One that is asked anew if the process was interrupted between two of the clocks.

        Else a reading's wall time would be wrong by as long as that took.
        """
        for _ in range(MOST_READS):
            began = time.monotonic()
            moment = Moment(began, time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))
            if time.monotonic() - began < AS_ONE_SECONDS:
                break
        return moment
