"""Where the configuration is found, and where state lives: that follows from the file alone."""

import os
from pathlib import Path

SYSTEM_DIRECTORY = Path("/etc/sensor-node")
LOCAL_STATE = "sensor-node-data"


def find_config(argument: str | None) -> Path:
    """The argument of `-c`, else $SENSOR_NODE_CONFIG, else the system's file, else ./config.ini."""
    if argument is not None:
        return Path(argument)
    if variable := os.environ.get("SENSOR_NODE_CONFIG"):
        return Path(variable)
    system = SYSTEM_DIRECTORY / "config.ini"
    return system if system.exists() else Path("config.ini")


def drop_in_directory(file: Path) -> Path:
    """The directory of the drop-ins: config.d beside config.ini."""
    return file.with_suffix(".d")


def directories(file: Path) -> tuple[Path, Path]:
    """The state and the runtime directory that belong to a configuration file."""
    if file.parent == SYSTEM_DIRECTORY:
        name = "sensor-node" if file.stem == "config" else f"sensor-node-{file.stem}"
        return Path("/var/lib") / name, Path("/run") / name
    local = file.parent / LOCAL_STATE
    return local, local
