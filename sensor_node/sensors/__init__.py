"""Where readings come from: simulated, this machine, or a command."""

from pathlib import Path

from sensor_node.config import SensorConfig
from sensor_node.sensors.command import CommandSource
from sensor_node.sensors.mock import MockSource
from sensor_node.sensors.source import Source


def open_source(sensor: SensorConfig, directory: Path) -> Source:
    """The source of one [sensor:NAME] section. Never fails: what is wrong is said by read().

    `directory` is where a source notes what a crash would leave behind; it should be private to
    the appliance and better in memory than on flash, and need not be writable.
    """
    match sensor.source:
        case "command":
            return CommandSource(sensor, directory)
        case "host":
            # psutil is 1.2 MB and 20 ms that an appliance without host sensors need not pay.
            from sensor_node.sensors.host import HostSource

            return HostSource(sensor)
        case _:
            return MockSource(sensor)
