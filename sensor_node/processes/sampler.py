"""Takes sensors' readings on an absolute grid of the monotonic clock, so that nothing drifts."""

import math
import threading
from collections.abc import Callable, Sequence

from sensor_node.clock import Clock, Moment
from sensor_node.config import SensorConfig
from sensor_node.errors import SourceError
from sensor_node.log import Throttle
from sensor_node.model import Readings
from sensor_node.processes.buffer import Buffer
from sensor_node.sensors.source import Source

MAKE_UP_SECONDS = 60.0
TICKS_A_TURN = 5000
# How soon to look again when the buffer has no room for simulated readings.
FULL_WAIT_SECONDS = 0.05
# The suspended time is read from two clocks, one after the other.
SUSPEND_SECONDS = 1.0


class Sensor:
    """One sensor's grid: tick k is due at `start + k / rate` monotonic seconds."""

    def __init__(self, config: SensorConfig, source: Source, buffer: Buffer, now: Moment) -> None:
        self.rate = config.rate
        self._name = config.name
        self._source = source
        self._buffer = buffer
        self._start = now.monotonic
        self._next = 0
        self._throttle = Throttle()

    def turn(self, now: Moment) -> float:
        """Take what is due. Returns the seconds until there is more to do."""
        due = math.floor((now.monotonic - self._start) * self.rate) + 1 - self._next
        if due > 0:
            due -= self._give_up(due, now)
        if due > 0 and self._source.makes_up_late_ticks:
            most = min(due, TICKS_A_TURN, self._buffer.mock_room())
            if most == 0:
                return FULL_WAIT_SECONDS
            self._take(most, now)
        elif due > 0:
            self._take(1, now)
        return self._start + self._next / self.rate - now.monotonic

    def make_up(self, now: Moment) -> None:
        """All that is due, if it can be made up and there is room."""
        before = None
        while self._source.makes_up_late_ticks and before != self._next:
            before = self._next
            self.turn(now)

    def asleep(self, seconds: float, now: Moment) -> None:
        """The machine was suspended; its monotonic clock stood still, so no tick became due."""
        if count := int(seconds * self.rate):
            first = now.wall_us - int(seconds * 1e6)
            self._buffer.drop("asleep", count, first, now.wall_us)

    def close(self) -> None:
        self._source.close()

    def _give_up(self, due: int, now: Moment) -> int:
        """Late ticks beyond what may be made up are dropped. Returns how many."""
        made_up = self._source.makes_up_late_ticks
        keep = math.ceil(MAKE_UP_SECONDS * self.rate) if made_up else 1
        late = due - keep
        if late <= 0:
            return 0
        first, last = (
            self._times(self._next, 1, now)[0],
            self._times(self._next + late - 1, 1, now)[0],
        )
        self._next += late
        # Only simulated readings wait for room, and so for the trouble's end.
        reason = (made_up and self._buffer.trouble) or "late"
        self._buffer.drop(reason, late, first, last)
        return late

    def _take(self, count: int, now: Moment) -> None:
        first, times = self._next, self._times(self._next, count, now)
        self._next += count
        try:
            readings = self._source.read(first, times)
        except SourceError as error:
            self._throttle.warning(now.monotonic, "sensor_failed", f"{self._name}: {error}")
            self._buffer.drop(f"sensor {self._name} failed", count, times[0], times[-1])
            return
        if not self._source.makes_up_late_ticks:
            readings = self._finite(readings)
        if readings:
            self._buffer.add(readings)

    def _finite(self, readings: Readings) -> Readings:
        """JSON has no nan and no infinity; SQLite would make NULL of nan."""
        refused = [reading for reading in readings if not math.isfinite(reading.value)]
        for reading in refused:
            at = reading.captured_us
            self._buffer.drop(f"sensor {self._name} gave nan or infinity", 1, at, at)
        return [reading for reading in readings if math.isfinite(reading.value)]

    def _times(self, first: int, count: int, now: Moment) -> list[int]:
        """The ticks' own wall times in microseconds, by the wall clock as it is now."""
        zero = (now.wall - now.monotonic + self._start) * 1e6
        step = 1e6 / self.rate
        return [int(zero + k * step) for k in range(first, first + count)]


class Sampler:
    """A thread that takes the readings of sensors that cannot hold each other up."""

    def __init__(
        self, sensors: Sequence[Sensor], clock: Clock, on_reading: Callable[[], None]
    ) -> None:
        self._sensors = sensors
        self._clock = clock
        self._on_reading = on_reading
        self._suspended: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Closing a source ends a read that hangs."""
        self._stop.set()
        for sensor in self._sensors:
            sensor.close()

    def join(self, seconds: float) -> None:
        """Wait so long for the thread's end; it may never have been started."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def turn(self, now: Moment) -> float:
        """Take all that is due. Returns the seconds until there is more to do."""
        suspended = now.boottime - now.monotonic
        if self._suspended is not None and suspended - self._suspended >= SUSPEND_SECONDS:
            for sensor in self._sensors:
                sensor.asleep(suspended - self._suspended, now)
        self._suspended = suspended
        delay = min(sensor.turn(now) for sensor in self._sensors)
        self._on_reading()
        return max(0.0, delay)

    def make_up(self, now: Moment) -> None:
        """The last ticks of simulated sensors, when the thread has ended.

        There are some if the process was stopped for a while: another sensor's reading, or drop, of
        this moment would hide that they were never taken.
        """
        if not self._thread.is_alive():
            for sensor in self._sensors:
                sensor.make_up(now)

    def _run(self) -> None:
        while not self._stop.is_set():
            delay = self.turn(self._clock.now())
            if delay > 0:
                self._stop.wait(delay)
