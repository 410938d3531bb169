"""Where readings come from: a row for each source, and its module, which opens sensors.

A new source is a module with `open_source`, and a row; the configuration and all else follow.
"""

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from sensor_node.core.options import (
    COMMAND,
    FLOAT,
    SEED,
    TEXT,
    Option,
    choice,
    duration,
    number,
)
from sensor_node.sensors.source import SensorConfig, Settings, Source, SourceType


def _check_bounds(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings["min"] > settings["max"]:
        yield "min", f"at most max, {settings['max']:g}"


def _check_command(settings: Settings) -> Iterator[tuple[str, str]]:
    if not settings["command"]:
        yield "command", "a shell command"


# fmt: off
SOURCES = (
    SourceType(
        "mock", "sensor_node.sensors.mock", max_rate=1e6, is_simulated=True, check=_check_bounds,
        options=(
            Option("sensor", "waveform", choice("constant", "sine", "random-walk"), "sine",
                   "Shape of the simulated value."),
            Option("sensor", "min", FLOAT, "15", "Lowest simulated value, before noise."),
            Option("sensor", "max", FLOAT, "25", "Highest simulated value, before noise."),
            Option("sensor", "period", duration("10ms", "365d"), "60s", "Of the sine."),
            Option("sensor", "noise", number(0, 1e300), "0",
                   "Standard deviation of Gaussian noise added to the value."),
            Option("sensor", "seed", SEED, "",
                   "Makes a run repeatable. Empty: another run each start."),
        ),
    ),
    SourceType(
        "host", "sensor_node.sensors.host", max_rate=100.0,
        options=(
            Option("sensor", "metric", choice("cpu", "memory", "disk", "temperature"), "cpu",
                   "cpu, memory and disk in percent used, temperature in °C."),
            Option("sensor", "path", TEXT, "/", "File system that metric = disk looks at."),
        ),
    ),
    SourceType(
        "command", "sensor_node.sensors.command", max_rate=10.0, needs_pidfd=True,
        check=_check_command,
        options=(
            Option("sensor", "command", COMMAND, "",
                   "Shell command; prints a number, or "
                   '{"name":…,"value":…[,"timestamp":…]} lines.'),
            Option("sensor", "timeout", duration("100ms", "1h"), "10s",
                   "The command is killed when it runs longer."),
        ),
    ),
)
# fmt: on


def prepare(sensors: Iterable[SensorConfig]) -> None:
    """Load the modules that these sensors need, before the first tick is due.

    A module may take long to load: psutil, which `host` needs, is 1.2 MB and 20 ms, on a small
    board ten times that. A node pays only for the sources that it has.
    """
    for module in {sensor.source.module for sensor in sensors}:
        # Where it cannot be loaded, its sensors alone fail, and say why.
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def open_source(sensor: SensorConfig, directory: Path) -> Source:
    """The source of one [sensor:NAME] section.

    `directory` is where a source notes what a crash would leave behind; it should be private to
    the appliance and better in memory than on flash, and need not be writable.
    """
    source: Source = importlib.import_module(sensor.source.module).open_source(sensor, directory)
    return source
