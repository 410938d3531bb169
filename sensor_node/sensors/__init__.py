"""Where readings come from: simulated, this machine, or a command."""

import contextlib
import importlib
from collections.abc import Iterable
from pathlib import Path

from sensor_node.config.loader import SensorConfig
from sensor_node.sensors.command import CommandSource
from sensor_node.sensors.mock import MockSource
from sensor_node.sensors.source import Source


def prepare(sensors: Iterable[SensorConfig]) -> None:
    """Load what takes long to load, before the first tick is due.

    psutil is 1.2 MB and 20 ms, on a small board ten times that, that an appliance without host
    sensors need not pay.
    """
    if any(sensor.source == "host" for sensor in sensors):
        # Where it cannot be loaded, these sensors alone fail, and say why.
        with contextlib.suppress(Exception):
            importlib.import_module(f"{__name__}.host")


def open_source(sensor: SensorConfig, directory: Path) -> Source:
    """The source of one [sensor:NAME] section.

    `directory` is where a source notes what a crash would leave behind; it should be private to
    the appliance and better in memory than on flash, and need not be writable.
    """
    match sensor.source:
        case "command":
            return CommandSource(sensor, directory)
        case "host":
            from sensor_node.sensors.host import HostSource

            return HostSource(sensor)
        case _:
            return MockSource(sensor)
