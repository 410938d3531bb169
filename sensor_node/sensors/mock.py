"""Simulated readings: a constant, a sine or a bounded random walk, with noise if wanted."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path

from sensor_node.core.model import Reading
from sensor_node.sensors.source import SensorConfig

# A random walk moves at most this part of its range in one tick.
LARGEST_STEP = 0.02


@dataclass(frozen=True, slots=True)
class MockSettings:
    """The source's own options."""

    waveform: str
    min: float
    max: float
    period: float  # of the sine, in seconds
    noise: float  # standard deviation
    seed: int | None  # None: another run each time


def open_source(sensor: SensorConfig, directory: Path) -> "MockSource":
    """Nothing is noted in `directory`."""
    return MockSource(sensor.name, sensor.rate, MockSettings(**sensor.settings))


class MockSource:
    """Readings that depend on the tick alone, so that late ticks can be made up for.

    The random walk and the noise draw their random numbers from tick to tick. With the same seed
    and no tick left out they are the same, however the ticks are divided among calls.
    """

    def __init__(self, name: str, rate: float, settings: MockSettings) -> None:
        """`rate` in readings a second."""
        self._name = name
        self._waveform = settings.waveform
        self._low, self._high = settings.min, settings.max
        self._middle = (self._low + self._high) / 2
        self._radians_per_tick = 2 * math.pi / (rate * settings.period)
        self._noise = settings.noise
        self._random = random.Random(settings.seed)
        self._walk = self._random_walk()

    def read(self, first_tick: int, timestamps_us: Sequence[int]) -> list[Reading]:
        values = self._values(range(first_tick, first_tick + len(timestamps_us)))
        if self._noise:
            gauss, deviation = self._random.gauss, self._noise
            values = [value + gauss(0.0, deviation) for value in values]
        names = repeat(self._name, len(timestamps_us))
        return list(map(Reading._make, zip(names, values, timestamps_us, strict=True)))

    def close(self) -> None:
        """There is nothing to close."""

    def _values(self, ticks: range) -> Iterable[float]:
        match self._waveform:
            case "constant":
                return repeat(self._middle, len(ticks))
            case "random-walk":
                # One draw a tick, so that the draws do not depend on how the ticks are divided.
                return islice(self._walk, len(ticks))
            case _:
                middle, amplitude = self._middle, (self._high - self._low) / 2
                step, sin = self._radians_per_tick, math.sin
                return [middle + amplitude * sin(step * tick) for tick in ticks]

    def _random_walk(self) -> Iterator[float]:
        """Endless: begins in the middle, takes uniform steps, is reflected at the bounds."""
        low, high, value = self._low, self._high, self._middle
        width = 2 * LARGEST_STEP * (high - low)
        while True:
            yield value
            value += width * (self._random.random() - 0.5)
            if value > high:
                value = 2 * high - value
            elif value < low:
                value = 2 * low - value
