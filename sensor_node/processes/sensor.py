"""One sensor: its ticks on an absolute grid of the monotonic clock, and what became of each.

Every tick that was due is taken, dropped or waiting; nothing drifts.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sensor_node.core.clock import Moment
from sensor_node.core.errors import SourceError
from sensor_node.core.model import Readings
from sensor_node.processes.buffer import Buffer
from sensor_node.sensors.source import SensorConfig, Source
from sensor_node.system.log import Throttle

MAKE_UP_SECONDS = 60.0
TICKS_A_READ = 5000
# How soon to look again when the buffer has no room for simulated readings.
FULL_WAIT_SECONDS = 0.05
# A shorter suspend is not counted: its length comes from two clocks, read one after the other.
SUSPEND_SECONDS = 1.0
# On a busy machine a thread may be this late. A tick that waits longer is missing.
PATIENCE_SECONDS = 10.0
LONGEST_ERROR = 500
FAULT = "this is a fault of the program, see the log"


@dataclass(slots=True)
class Account:
    """What became of a sensor's ticks since this process started. Numbers count ticks."""

    taken: int = 0
    dropped: int = 0
    failures: int = 0
    # Rises each time the sensor shows life: it gave a reading, or only lacks room in the buffer.
    beats: int = 0
    failing: bool = False  # the last attempt failed
    error: str = ""  # of the last failure
    error_us: int | None = None  # when that was, in wall microseconds
    missing: int = 0  # were due, are neither taken nor dropped, and have no reason to wait


class Sensor:
    """One sensor's grid: tick k is due at `start + k / rate` monotonic seconds.

    Its own thread calls take_due(); another thread may call watch() meanwhile. The lock is never
    held during a read.
    """

    def __init__(
        self,
        config: SensorConfig,
        open_source: Callable[[], Source],
        buffer: Buffer,
        now: Moment,
    ) -> None:
        self.config = config
        self._name = config.name
        self._rate = config.rate
        self._open_source = open_source
        self._source: Source | None = None
        self._closed = self._abandoned = False
        self._buffer = buffer
        self._start = now.monotonic
        self._next = 0
        # The times of the ticks that the source is asked for at this moment.
        self._in_hand: Sequence[int] = ()
        self._account = Account()
        self._suspended: float | None = None
        self._looked_at = -math.inf
        self._lock = threading.Lock()
        self._throttle = Throttle()

    def take_due(self, now: Moment) -> float:
        """Take what is due. Returns the seconds until there is more to do."""
        with self._lock:
            self._notice_sleep(now)
            due = self._give_up_late(now, "late")
            first, times = self._next, self._pick_up(due, now)
        if due > 0 and not times:
            return FULL_WAIT_SECONDS
        if times:
            self._take(first, times, now)
        return self._start + self._next / self._rate - now.monotonic

    def make_up(self, now: Moment) -> None:
        """Take all due ticks of a simulated sensor, as long as the buffer has room."""
        before = None
        while self.config.is_simulated and before != self._next:
            before = self._next
            self.take_due(now)

    def watch(self, now: Moment) -> Account:
        """Drop the ticks that a read still going on has made late. Returns the present account."""
        with self._lock:
            self._notice_sleep(now)
            if self._in_hand:
                self._give_up_late(now, "late")
            return replace(self._account, missing=self._missing(now))

    def refuse(self, error: str, now: Moment) -> None:
        """There is no thread to read the sensor: count its due ticks as failures."""
        with self._lock:
            self._notice_sleep(now)
            before = self._account.dropped
            self._give_up_late(now, "failed")
            self._note_failure(self._account.dropped - before, error, now)

    def abandon(self, now: Moment) -> None:
        """At the end: drop the ticks in hand, as their read may hang, and those still due.

        The present tick of a real sensor is not counted: there was no time to take it.
        """
        with self._lock:
            self._abandoned = True
            if lost := self._put_down():
                self._account.dropped += len(lost)
                self._drop("late", len(lost), lost[0], lost[-1])
            self._give_up(self._due(now) - self._next - (not self.config.is_simulated), now, "late")

    def close(self) -> None:
        """Close the source; one that is being opened just now is closed by its own thread."""
        with self._lock:
            self._closed, source = True, self._source
        if source is not None:
            source.close()

    def _notice_sleep(self, now: Moment) -> None:
        """Count the ticks of a suspend as dropped.

        The monotonic clock stood still meanwhile, so none of them became due. Two threads call
        this: an older `now` is ignored, so that no suspend is counted twice.
        """
        if now.monotonic < self._looked_at:
            return
        before, self._suspended = self._suspended, now.boottime - now.monotonic
        self._looked_at = now.monotonic
        seconds = 0.0 if before is None else self._suspended - before
        if seconds >= SUSPEND_SECONDS and (count := int(seconds * self._rate)):
            first = now.wall_us - int(seconds * 1e6)
            self._buffer.drop("asleep", count, first, now.wall_us)

    def _due(self, now: Moment) -> int:
        """How many ticks have been due since the start."""
        return math.floor((now.monotonic - self._start) * self._rate) + 1

    def _give_up_late(self, now: Moment, reason: str) -> int:
        """Drop the late ticks that may not be made up. Returns how many due ticks are left."""
        due = self._due(now) - self._next
        simulated = self.config.is_simulated
        keep = math.ceil(MAKE_UP_SECONDS * self._rate) if simulated else 1
        self._give_up(due - keep, now, reason)
        return min(due, keep)

    def _give_up(self, late: int, now: Moment, reason: str) -> None:
        """Drop the next `late` ticks; none if it is 0 or less."""
        if late <= 0:
            return
        [first] = self._times(self._next, 1, now)
        [last] = self._times(self._next + late - 1, 1, now)
        self._next += late
        self._account.dropped += late
        # Only simulated readings wait for room, and so for the trouble's end.
        trouble = self._buffer.trouble if self.config.is_simulated else ""
        if trouble:
            self._buffer.drop(trouble, late, first, last)
        else:
            self._drop(reason, late, first, last)

    def _pick_up(self, due: int, now: Moment) -> Sequence[int]:
        """Take ticks in hand. Returns their times; none while the buffer has no room for them."""
        count = 0 if self._abandoned else min(due, 1)
        if self.config.is_simulated and count > 0:
            count = min(due, TICKS_A_READ, self._buffer.simulated_room())
            if count == 0:
                self._account.beats += 1
        if count > 0:
            self._in_hand = self._times(self._next, count, now)
            self._next += count
        return self._in_hand

    def _put_down(self) -> Sequence[int]:
        """The times of the ticks in hand, which are no longer; none if they were abandoned."""
        times, self._in_hand = self._in_hand, ()
        return times

    def _take(self, first: int, times: Sequence[int], now: Moment) -> None:
        """Read the source. It may hang, or fail in ways that nobody foresaw."""
        try:
            readings = self._opened().read(first, times)
            refused = [] if self.config.is_simulated else _without_number(readings)
        except SourceError as error:
            self._throttle.warning(now.monotonic, "sensor_failed", f"{self._name}: {error}")
            self._fail(str(error), now)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
            self._throttle.warning(now.monotonic, "sensor_fault", f"{self._name}: {text}", error)
            self._fail(f"{text}; {FAULT}", now)
        else:
            self._give(readings, refused, now)

    def _opened(self) -> Source:
        """The source. The sensor's own thread opens it, since that may hang or fail like a read."""
        if self._source is None:
            source = self._open_source()
            with self._lock:
                self._source, closed = source, self._closed
            if closed:
                source.close()
        return self._source

    def _fail(self, error: str, now: Moment) -> None:
        with self._lock:
            if lost := self._put_down():
                self._account.dropped += len(lost)
                # At a stop or a reload we close the source ourselves: then it has not failed.
                self._drop("late" if self._closed else "failed", len(lost), lost[0], lost[-1])
                if not self._closed:
                    self._note_failure(len(lost), error, now)

    def _note_failure(self, ticks: int, error: str, now: Moment) -> None:
        account = self._account
        account.failures += ticks
        account.failing, account.error, account.error_us = True, error, now.wall_us

    def _give(self, readings: Readings, refused: Readings, now: Moment) -> None:
        with self._lock:
            ticks = len(self._put_down())
            if not ticks:
                return
            self._account.taken += ticks
            self._account.failing = False
            if refused:
                readings = [reading for reading in readings if math.isfinite(reading.value)]
                times = [reading.captured_us for reading in refused]
                self._drop("gave nan or infinity", len(times), min(times), max(times))
                self._note_failure(1, "gave nan or infinity; make it give a number", now)
            if readings:
                self._account.beats += 1
                self._buffer.add(self._name, readings)

    def _missing(self, now: Moment) -> int:
        """How many due ticks are neither taken, dropped, in hand, nor may still wait."""
        due, account = self._due(now), self._account
        seconds = PATIENCE_SECONDS + (MAKE_UP_SECONDS if self.config.is_simulated else 0)
        waiting = min(due - self._next, math.ceil(seconds * self._rate) + 1)
        return max(0, due - account.taken - account.dropped - len(self._in_hand) - waiting)

    def _drop(self, reason: str, count: int, first_us: int, last_us: int) -> None:
        self._buffer.drop(f"sensor {self._name} {reason}", count, first_us, last_us)

    def _times(self, first: int, count: int, now: Moment) -> list[int]:
        """The ticks' own wall times in microseconds, by the wall clock as it is now."""
        zero = (now.wall - now.monotonic + self._start) * 1e6
        step = 1e6 / self._rate
        return [int(zero + k * step) for k in range(first, first + count)]


def _without_number(readings: Readings) -> Readings:
    """The readings that are nan or infinite: JSON has neither, and SQLite makes NULL of nan."""
    return [reading for reading in readings if not math.isfinite(reading.value)]
