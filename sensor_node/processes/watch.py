"""Watches over the sensors: judges each, and says what is to be written of it with the readings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sensor_node.core.clock import Moment
from sensor_node.core.model import DatedReading, Reading, VitalSigns
from sensor_node.processes.buffer import SensorReadings
from sensor_node.processes.sampler import Sampler
from sensor_node.processes.sensor import Account
from sensor_node.sensors.source import SensorConfig
from sensor_node.system.log import LOGGER

LOOK_SECONDS = 1.0
# The row of a sensor that is well is not written more often, and only along with readings.
NOTE_SECONDS = 10.0
NOTE_READINGS = 50_000
# Without a reading for so long, something is wrong with a sensor.
SILENT_PERIODS = 3
LEAST_SILENCE_SECONDS = 10.0


class _State(NamedTuple):
    """What is wrong with a sensor. A change is written at once."""

    failing: bool = False
    silent: bool = False
    unaccounted: int = 0


WELL = _State()


@dataclass(slots=True)
class _Sensor:
    """What is known of one sensor. Times are monotonic seconds."""

    config: SensorConfig
    since: float  # when this process began to watch it
    heard_at: float | None = None  # the last sign of life
    account: Account = field(default_factory=Account)
    state: _State = WELL
    readings: int = 0  # stored since its row was written
    last: Reading | DatedReading | None = None  # the last one that was stored
    noted: tuple[float | None, int, _State] = (None, 0, WELL)  # summary() when its row was written

    @property
    def silent_after(self) -> float:
        return max(LEAST_SILENCE_SECONDS, SILENT_PERIODS / self.config.rate)

    def summary(self) -> tuple[float | None, int, _State]:
        return self.heard_at, self.account.failures, self.state


class Watch:
    """Belongs to the writer's thread, as the database does. Times are monotonic seconds."""

    def __init__(self, samplers: Sequence[Sampler], now: Moment) -> None:
        self._samplers = samplers
        self._sensors = {
            sensor.config.name: _Sensor(sensor.config, now.monotonic)
            for sampler in samplers
            for sensor in sampler.sensors
        }
        self._look_at = self._note_at = now.monotonic
        self._readings = 0
        # Some sensor's state is not what its row says.
        self.has_news = False

    def look(self, now: Moment) -> None:
        """Look at all sensors, if the last look was a second ago."""
        if now.monotonic >= self._look_at:
            self.look_again(now)

    def look_again(self, now: Moment) -> None:
        """Judge all sensors: here silence, failures and hangs are seen."""
        self._look_at = now.monotonic + LOOK_SECONDS
        for sampler in self._samplers:
            for name, account in sampler.watch(now):
                _judge(self._sensors[name], account, now)
        self.has_news = any(sensor.state != sensor.noted[2] for sensor in self._sensors.values())

    def begin(self) -> dict[str, float]:
        """Forget what was written: all rows are made anew.

        Returns by name after how many seconds without a reading each sensor is silent.
        """
        for sensor in self._sensors.values():
            sensor.noted = (None, sensor.noted[1], WELL)
            sensor.readings, sensor.last = 0, None
        return {name: sensor.silent_after for name, sensor in self._sensors.items()}

    def signs(self, now: Moment) -> list[VitalSigns]:
        """The vital signs to write now; mostly none."""
        due = now.monotonic >= self._note_at or self._readings >= NOTE_READINGS
        return self.changed(now) if due or self.has_news else []

    def changed(self, now: Moment) -> list[VitalSigns]:
        """The signs of all sensors whose rows are not up to date."""
        return [
            _signs(sensor, now)
            for sensor in self._sensors.values()
            if sensor.readings or sensor.summary() != sensor.noted
        ]

    def noted(self, signs: Sequence[VitalSigns], now: Moment) -> None:
        """These vital signs are in the database now."""
        for row in signs:
            sensor = self._sensors[row.name]
            sensor.readings, sensor.noted = 0, sensor.summary()
        if signs:
            self._note_at = now.monotonic + NOTE_SECONDS
            self._readings, self.has_news = 0, False

    def stored(self, chunks: Sequence[SensorReadings]) -> None:
        """These readings are in the database now."""
        for taken in chunks:
            sensor = self._sensors[taken.sensor]
            sensor.readings += len(taken.readings)
            sensor.last = taken.readings[-1]
            self._readings += len(taken.readings)


def _judge(sensor: _Sensor, account: Account, now: Moment) -> None:
    before, sensor.account = sensor.account, account
    if account.beats != before.beats:
        sensor.heard_at = now.monotonic
    heard = sensor.since if sensor.heard_at is None else sensor.heard_at
    # Only ticks that were missing at the last look as well: a thread that could not run for a
    # moment takes its ticks until the next look.
    unaccounted = min(account.missing, before.missing)
    silent = now.monotonic - heard > sensor.silent_after
    previous, sensor.state = sensor.state, _State(account.failing, silent, unaccounted)
    if silent > previous.silent:
        LOGGER.warning(
            "sensor_silent %s: no reading for %.0f s", sensor.config.name, now.monotonic - heard
        )
    if unaccounted and not previous.unaccounted:
        LOGGER.error("ticks_unaccounted %s: %d", sensor.config.name, unaccounted)


def _signs(sensor: _Sensor, now: Moment) -> VitalSigns:
    account, last = sensor.account, sensor.last
    return VitalSigns(
        name=sensor.config.name,
        noted_at=now.monotonic,
        readings=sensor.readings,
        failures=account.failures - sensor.noted[1],
        last_us=last and last.captured_us,
        last_value=last and last.value,
        heard_at=sensor.heard_at,
        error=account.error,
        error_us=account.error_us,
        failing=sensor.state.failing,
        silent=sensor.state.silent,
        unaccounted=sensor.state.unaccounted,
    )
