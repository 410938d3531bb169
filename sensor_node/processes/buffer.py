"""Readings between the sampling threads and the writer: bounded, in order, nothing unaccounted."""

import itertools
import math
import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from sensor_node.core.model import Dropped, Readings
from sensor_node.sensors.source import SensorConfig

# Of real sensors: a minute of 2,500 readings a second. 20 MB, with names of their own 50 MB; at
# worst twice that, see _has_room().
MOST_REAL = 150_000
# Simulated sensors wait for room instead, and make up their ticks afterwards. Their room is what
# they give in so many seconds, within bounds.
HOLD_SECONDS = 60.0
MOST_SIMULATED = 100_000
LEAST_ROOM = 1000


class SensorReadings(NamedTuple):
    """What one read of a sensor gave."""

    sensor: str
    readings: Readings


class Buffer:
    """Sampling threads fill it; the one writer empties it, and only after its COMMIT.

    `between_commits`: the seconds that readings wait here although all is well.
    """

    def __init__(self, sensors: Sequence[SensorConfig], between_commits: float) -> None:
        simulated = [sensor for sensor in sensors if sensor.is_simulated]
        hold = HOLD_SECONDS + between_commits
        rate = sum(sensor.rate for sensor in simulated)
        self._simulated_room = max(LEAST_ROOM, min(MOST_SIMULATED, math.ceil(hold * rate)))
        self._simulated = {sensor.name for sensor in simulated}
        self._share = MOST_REAL // max(1, len(sensors) - len(simulated))
        self._lock = threading.Lock()
        self._chunks: deque[SensorReadings] = deque()
        self._held: Counter[str] = Counter()
        self._mock = self._real = 0
        self._dropped: dict[str, Dropped] = {}
        # Why the writer cannot write now; this is also why readings are dropped meanwhile.
        self.trouble = ""

    def simulated_room(self) -> int:
        """How many simulated readings may be added now."""
        return max(0, self._simulated_room - self._mock)

    def is_half_full(self) -> bool:
        """Whether the writer should commit now, before its time."""
        return 2 * self._mock >= self._simulated_room or 2 * self._real >= MOST_REAL

    def add(self, sensor: str, readings: Readings) -> None:
        """Add what one read gave. A real sensor's readings are all dropped if they do not fit."""
        with self._lock:
            if sensor in self._simulated or self._has_room(sensor, len(readings)):
                self._chunks.append(SensorReadings(sensor, readings))
                self._count(sensor, len(readings))
                return
        reason = self.trouble or "buffer full"
        times = [reading.captured_us for reading in readings]
        self.drop(reason, len(readings), min(times), max(times))

    def drop(self, reason: str, count: int, first_us: int, last_us: int) -> None:
        """Count readings that will never be stored."""
        with self._lock:
            if before := self._dropped.get(reason):
                count += before.count
                first_us = min(first_us, before.first_us)
                last_us = max(last_us, before.last_us)
            self._dropped[reason] = Dropped(reason, count, first_us, last_us)

    def drop_all(self, reason: str) -> None:
        """Drop all readings that are here, and count them."""
        with self._lock:
            chunks = [taken.readings for taken in self._chunks]
            self._chunks.clear()
            self._held.clear()
            self._mock = self._real = 0
        if chunks:
            times = [reading.captured_us for reading in itertools.chain.from_iterable(chunks)]
            self.drop(reason, len(times), min(times), max(times))

    def oldest(self, most: int) -> list[Readings]:
        """The oldest `most` readings, in a list for each read. They stay in the buffer."""
        with self._lock:
            chunks: list[Readings] = []
            for taken in self._chunks:
                if most <= 0:
                    break
                chunks.append(taken.readings[:most])
                most -= len(taken.readings)
            return chunks

    def dropped(self) -> list[Dropped]:
        """What was dropped and is not yet counted in the database, by reason."""
        with self._lock:
            return list(self._dropped.values())

    def forget(self, readings: int, dropped: list[Dropped]) -> list[SensorReadings]:
        """Remove so many of the oldest readings, which are returned, and take these drops off."""
        forgotten = []
        with self._lock:
            while readings:
                taken = self._chunks.popleft()
                if len(taken.readings) > readings:
                    self._chunks.appendleft(SensorReadings(taken.sensor, taken.readings[readings:]))
                    taken = SensorReadings(taken.sensor, taken.readings[:readings])
                self._count(taken.sensor, -len(taken.readings))
                readings -= len(taken.readings)
                forgotten.append(taken)
            for drop in dropped:
                self._forget_dropped(drop)
        return forgotten

    def _forget_dropped(self, drop: Dropped) -> None:
        now = self._dropped[drop.reason]
        if now == drop:
            del self._dropped[drop.reason]
        else:
            left = now.count - drop.count
            self._dropped[drop.reason] = Dropped(drop.reason, left, drop.last_us, now.last_us)

    def _has_room(self, sensor: str, length: int) -> bool:
        """Whether what one read of a real sensor gave may be added.

        If no other real reading is here, it may, however long it is. If the buffer is full, it may
        up to the sensor's own share, so that a sensor that floods the buffer leaves room for the
        others.
        """
        together, own = self._real + length, self._held[sensor] + length
        return self._real == 0 or together <= MOST_REAL or own <= self._share

    def _count(self, sensor: str, more: int) -> None:
        if sensor in self._simulated:
            self._mock += more
        else:
            self._real += more
            self._held[sensor] += more
