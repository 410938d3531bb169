"""Simulated readings: a constant, a sine or a bounded random walk, with noise if wanted."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat

from sensor_node.config.loader import SensorConfig
from sensor_node.core.model import Reading

# A random walk moves at most this part of its range in one tick.
LARGEST_STEP = 0.02


class MockSource:
    """Readings that depend on the tick alone, so that late ticks can be made up for.

    The random walk and the noise go from tick to tick: with the same seed and no tick left out,
    they come out the same, however the ticks are divided among calls.
    """

    def __init__(self, sensor: SensorConfig) -> None:
        self._name = sensor.name
        self._waveform = sensor.waveform
        self._low, self._high = sensor.min, sensor.max
        self._middle = (sensor.min + sensor.max) / 2
        self._radians_per_tick = 2 * math.pi / (sensor.rate * sensor.period)
        self._noise = sensor.noise
        self._random = random.Random(sensor.seed)
        self._walk = self._random_walk()

    def read(self, first_tick: int, timestamps_us: Sequence[int]) -> list[Reading]:
        values = self._values(range(first_tick, first_tick + len(timestamps_us)))
        if self._noise:
            gauss, deviation = self._random.gauss, self._noise
            values = [value + gauss(0.0, deviation) for value in values]
        names = repeat(self._name, len(timestamps_us))
        return list(map(Reading._make, zip(names, values, timestamps_us, strict=True)))

    def close(self) -> None:
        """Nothing is held."""

    def _values(self, ticks: range) -> Iterable[float]:
        match self._waveform:
            case "constant":
                return repeat(self._middle, len(ticks))
            case "random-walk":
                # Drawn one by one, as the noise is, so that the order of draws is the ticks'.
                return islice(self._walk, len(ticks))
            case _:
                middle, amplitude = self._middle, (self._high - self._low) / 2
                step, sin = self._radians_per_tick, math.sin
                return [middle + amplitude * sin(step * tick) for tick in ticks]

    def _random_walk(self) -> Iterator[float]:
        """From the middle on, in uniform steps, reflected at the bounds."""
        low, high, value = self._low, self._high, self._middle
        width = 2 * LARGEST_STEP * (high - low)
        while True:
            yield value
            value += width * (self._random.random() - 0.5)
            if value > high:
                value = 2 * high - value
            elif value < low:
                value = 2 * low - value
