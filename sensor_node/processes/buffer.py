"""Readings between the sampling threads and the writer: bounded, in order, nothing unaccounted."""

import itertools
import math
import threading
from collections import deque

from sensor_node.config import SensorConfig
from sensor_node.model import Dropped, Readings

# The buffer holds at least so much of what real sensors give.
HOLD_SECONDS = 60.0
# Simulated sensors wait for room instead, and make their ticks up afterwards.
MOST_SIMULATED = 100_000
LEAST_ROOM = 1000


class Buffer:
    """Filled by sampling threads, emptied by the one writer only after its COMMIT.

    `between_commits`: seconds for which readings are here although all is well.
    """

    def __init__(self, sensors: tuple[SensorConfig, ...], between_commits: float) -> None:
        hold = HOLD_SECONDS + between_commits
        mock = sum(sensor.rate for sensor in sensors if sensor.source == "mock")
        real = sum(sensor.rate for sensor in sensors) - mock
        self._mock_room = max(LEAST_ROOM, min(MOST_SIMULATED, math.ceil(hold * mock)))
        self._room = self._mock_room + max(LEAST_ROOM, math.ceil(hold * real))
        self._lock = threading.Lock()
        self._chunks: deque[Readings] = deque()
        self._length = 0
        self._dropped: dict[str, Dropped] = {}
        # Why the writer cannot write: what is dropped meanwhile is dropped for this.
        self.trouble = ""

    def mock_room(self) -> int:
        """How many simulated readings may be added now."""
        return max(0, self._mock_room - self._length)

    def is_half_full(self) -> bool:
        """The writer had better not wait for its time."""
        return 2 * self._length >= self._room

    def add(self, readings: Readings) -> None:
        """Readings that do not fit are dropped, the whole chunk of a real sensor's tick."""
        with self._lock:
            if self._length + len(readings) <= self._room:
                self._chunks.append(readings)
                self._length += len(readings)
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
        """Count all that is here, of which nothing can be stored."""
        with self._lock:
            readings = list(itertools.chain.from_iterable(self._chunks))
            self._chunks.clear()
            self._length = 0
        if readings:
            times = [reading.timestamp_us for reading in readings]
            self.drop(reason, len(times), min(times), max(times))

    def oldest(self, most: int) -> list[Readings]:
        """The oldest chunks, of `most` readings or a chunk more; they stay in the buffer."""
        with self._lock:
            chunks: list[Readings] = []
            length = 0
            for chunk in self._chunks:
                if length >= most:
                    break
                chunks.append(chunk)
                length += len(chunk)
            return chunks

    def dropped(self) -> list[Dropped]:
        """What was dropped and is not yet accounted for in the database."""
        with self._lock:
            return list(self._dropped.values())

    def forget(self, readings: int, dropped: list[Dropped]) -> None:
        """So many of the oldest readings, and this account, are in the database now."""
        with self._lock:
            self._length -= readings
            while readings:
                chunk = self._chunks.popleft()
                if len(chunk) > readings:
                    self._chunks.appendleft(chunk[readings:])
                readings -= min(readings, len(chunk))
            for drop in dropped:
                now = self._dropped[drop.reason]
                if now == drop:
                    del self._dropped[drop.reason]
                else:
                    left = now.count - drop.count
                    self._dropped[drop.reason] = Dropped(
                        drop.reason, left, drop.last_us, now.last_us
                    )
