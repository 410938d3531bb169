"""A thread that takes sensors' readings, each when it is due."""

import threading
from collections.abc import Callable, Sequence

from sensor_node.core.clock import Clock, Moment
from sensor_node.processes.sensor import Account, Sensor

START_AGAIN_SECONDS = 10.0
# Ticks that become due meanwhile are taken together. One pass for each tick of a fast sensor would
# use a whole core, and leave nothing to the writer's thread.
LEAST_WAIT_SECONDS = 0.0002
NO_THREAD = "raise the limit on processes (TasksMax, ulimit -u)"


class Sampler:
    """A thread that takes the readings of sensors that cannot hold each other up."""

    def __init__(
        self, sensors: Sequence[Sensor], clock: Clock, on_reading: Callable[[], None]
    ) -> None:
        self.sensors = sensors
        self._clock = clock
        self._on_reading = on_reading
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # Why there is no thread, though one was asked for, and when to ask again.
        self._refused = ""
        self._start_at = 0.0
        self.failure: BaseException | None = None

    def start(self, now: Moment) -> None:
        """Start the thread. If the system allows no more threads, watch() tries again later."""
        thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._refused = f"{error}; {NO_THREAD}"
            self._start_at = now.monotonic + START_AGAIN_SECONDS
        else:
            self._thread, self._refused = thread, ""

    @property
    def has_ended(self) -> bool:
        """Whether the thread has ended. If nobody asked it to, `failure` says why."""
        return self._thread is not None and not self._thread.is_alive()

    def ask_to_stop(self) -> None:
        """End the thread soon; closing the sources ends a read that hangs."""
        self._stop.set()
        for sensor in self.sensors:
            sensor.close()

    def join(self, seconds: float) -> None:
        """Wait at most so long for the thread's end, if it was ever started."""
        if self._thread is not None:
            self._thread.join(seconds)

    def take_due(self, now: Moment) -> float:
        """Take all that is due. Returns the seconds until there is more to do."""
        delay = min(sensor.take_due(now) for sensor in self.sensors)
        self._on_reading()
        return max(0.0, delay)

    def watch(self, now: Moment) -> list[tuple[str, Account]]:
        """Called by another thread, about once a second. Returns how each sensor stands."""
        if self._refused and now.monotonic >= self._start_at:
            self.start(now)
        if self._refused:
            for sensor in self.sensors:
                sensor.refuse(self._refused, now)
        return [(sensor.config.name, sensor.watch(now)) for sensor in self.sensors]

    def settle(self, now: Moment) -> None:
        """After the thread was asked to stop: take or drop the ticks that are left.

        A simulated sensor has some left if the process was stopped for a while. If they stayed, a
        reading or drop of another sensor at this moment would hide that they were never taken.
        """
        is_over = self._thread is None or (self.has_ended and self.failure is None)
        for sensor in self.sensors:
            if is_over:
                sensor.make_up(now)
            sensor.abandon(now)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                now = self._clock.now()
                delay = self.take_due(now)
                if delay > 0:
                    taken = self._clock.now().monotonic - now.monotonic
                    self._stop.wait(max(delay - taken, LEAST_WAIT_SECONDS))
        except BaseException as error:
            # The writer sees that this thread has ended, and ends the process.
            self.failure = error
            self._on_reading()
