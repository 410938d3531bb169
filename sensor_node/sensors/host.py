"""Readings of this machine: CPU, memory and disk in percent used, temperature in °C."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from sensor_node.core.errors import SourceError
from sensor_node.core.model import Reading
from sensor_node.sensors.source import SensorConfig

# Chips that measure the processor, the best first. Without one of them, any chip is taken.
PREFERRED_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal")


@dataclass(frozen=True, slots=True)
class HostSettings:
    """The source's own options."""

    metric: str
    path: str  # a file system's, for the metric `disk`


def open_source(sensor: SensorConfig, directory: Path) -> "HostSource":
    """Nothing is noted in `directory`."""
    return HostSource(sensor.name, HostSettings(**sensor.settings))


class HostSource:
    """One metric of this machine, as it is now."""

    def __init__(self, name: str, settings: HostSettings) -> None:
        self._name = name
        self._metric = settings.metric
        self._path = settings.path
        self._cpu = _CpuUsage()
        if self._metric == "cpu":
            # The first reading covers the time from here on.
            with contextlib.suppress(SourceError):
                self._measure()

    def read(self, first_tick: int, timestamps_us: Sequence[int]) -> list[Reading]:
        return [Reading(self._name, self._measure(), timestamps_us[0])]

    def close(self) -> None:
        """There is nothing to close."""

    def _measure(self) -> float:
        try:
            match self._metric:
                case "cpu":
                    return self._cpu.percent()
                case "memory":
                    return float(psutil.virtual_memory().percent)
                case "disk":
                    return float(psutil.disk_usage(self._path).percent)
                case _:
                    return _temperature()
        except (OSError, psutil.Error) as error:
            hint = "check path" if self._metric == "disk" else "check that /proc and /sys are there"
            raise SourceError(f"no {self._metric} reading: {error}; {hint}") from error


class _CpuUsage:
    """How busy the processor was since the previous call, in percent.

    psutil.cpu_percent() remembers the previous call for the whole process, or, in other versions,
    for the thread: two sensors would shorten each other's time, and the first call in a thread
    would give 0.
    """

    def __init__(self) -> None:
        self._busy = self._total = self._percent = 0.0

    def percent(self) -> float:
        """The first call covers the time since boot.

        The kernel's counters move 100 times a second. Until they move, the last value is repeated.
        """
        times = psutil.cpu_times()
        total = sum(times) - times.guest - times.guest_nice  # user and nice include them
        busy = total - times.idle - times.iowait
        if total > self._total:
            percent = 100 * (busy - self._busy) / (total - self._total)
            self._percent = min(max(percent, 0.0), 100.0)  # iowait may go backwards: proc(5)
        # After a suspend or a move all counters may go back: the next reading counts from here.
        self._busy, self._total = busy, total
        return self._percent


def _temperature() -> float:
    chips = {chip: entries for chip, entries in psutil.sensors_temperatures().items() if entries}
    if not chips:
        raise SourceError("this machine shows no temperature; use another metric, or a command")
    chip = next((chip for chip in PREFERRED_CHIPS if chip in chips), next(iter(chips)))
    return float(chips[chip][0].current)
