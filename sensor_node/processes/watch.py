"""Watches over the sensors: how each is, and what of that is to be written with the readings."""

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
# A row of a sensor that is well is written no more often, and only along with readings.
NOTE_SECONDS = 10.0
NOTE_READINGS = 50_000
# Without a reading for so long, something is wrong with a sensor.
SILENT_PERIODS = 3
LEAST_SILENCE_SECONDS = 10.0


class _State(NamedTuple):
    """A change of it is written at once."""

    failing: bool = False
    silent: bool = False
    unaccounted: int = 0


WELL = _State()


@dataclass(slots=True)
class _Sensor:
    """What is known of one. `readings`, `last`: stored since its row was written.

    `noted`: what now_is() was then.
    """

    config: SensorConfig
    since: float
    heard_at: float | None = None
    account: Account = field(default_factory=Account)
    state: _State = WELL
    readings: int = 0
    last: Reading | DatedReading | None = None
    noted: tuple[float | None, int, _State] = (None, 0, WELL)

    @property
    def silent_after(self) -> float:
        return max(LEAST_SILENCE_SECONDS, SILENT_PERIODS / self.config.rate)

    def now_is(self) -> tuple[float | None, int, _State]:
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
        """About once a second: silence, failures and hangs are seen here."""
        if now.monotonic >= self._look_at:
            self.look_again(now)

    def look_again(self, now: Moment) -> None:
        self._look_at = now.monotonic + LOOK_SECONDS
        for sampler in self._samplers:
            for name, account in sampler.watch(now):
                _judge(self._sensors[name], account, now)
        self.has_news = any(one.state != one.noted[2] for one in self._sensors.values())

    def begin(self) -> dict[str, float]:
        """The rows are made anew. Returns after how many seconds each sensor is silent, by name."""
        for one in self._sensors.values():
            one.noted = (None, one.noted[1], WELL)
            one.readings, one.last = 0, None
        return {name: one.silent_after for name, one in self._sensors.items()}

    def signs(self, now: Moment) -> list[VitalSigns]:
        """What is to be written now; mostly nothing."""
        due = now.monotonic >= self._note_at or self._readings >= NOTE_READINGS
        return self.changed(now) if due or self.has_news else []

    def changed(self, now: Moment) -> list[VitalSigns]:
        """The signs of all sensors whose rows are not up to date."""
        return [
            _signs(one, now)
            for one in self._sensors.values()
            if one.readings or one.now_is() != one.noted
        ]

    def noted(self, signs: Sequence[VitalSigns], now: Moment) -> None:
        """They are in the database now."""
        for row in signs:
            one = self._sensors[row.name]
            one.readings, one.noted = 0, one.now_is()
        if signs:
            self._note_at = now.monotonic + NOTE_SECONDS
            self._readings, self.has_news = 0, False

    def stored(self, chunks: Sequence[SensorReadings]) -> None:
        """So are these readings."""
        for taken in chunks:
            one = self._sensors[taken.sensor]
            one.readings += len(taken.readings)
            one.last = taken.readings[-1]
            self._readings += len(taken.readings)


def _judge(one: _Sensor, account: Account, now: Moment) -> None:
    before, one.account = one.account, account
    if account.beats != before.beats:
        one.heard_at = now.monotonic
    heard = one.since if one.heard_at is None else one.heard_at
    # A thread that the machine did not let run takes its ticks until the next look.
    unaccounted = min(account.missing, before.missing)
    silent = now.monotonic - heard > one.silent_after
    was, one.state = one.state, _State(account.failing, silent, unaccounted)
    if silent > was.silent:
        LOGGER.warning(
            "sensor_silent %s: no reading for %.0f s", one.config.name, now.monotonic - heard
        )
    if unaccounted and not was.unaccounted:
        LOGGER.error("ticks_unaccounted %s: %d", one.config.name, unaccounted)


def _signs(one: _Sensor, now: Moment) -> VitalSigns:
    account, last = one.account, one.last
    return VitalSigns(
        name=one.config.name,
        noted_at=now.monotonic,
        readings=one.readings,
        failures=account.failures - one.noted[1],
        last_us=last and last.captured_us,
        last_value=last and last.value,
        heard_at=one.heard_at,
        error=account.error,
        error_us=account.error_us,
        failing=one.state.failing,
        silent=one.state.silent,
        unaccounted=one.state.unaccounted,
    )
