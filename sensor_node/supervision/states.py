"""What the supervisor tells others about its children: the states and the report file."""

import enum
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sensor_node.config import Config, Effective


class ChildState(enum.StrEnum):
    STARTING = "STARTING"  # forked; its service is not open yet
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"  # died young; waits to be started again
    STOPPING = "STOPPING"  # asked to end
    STOPPED = "STOPPED"  # ended, not to be started again


@dataclass(frozen=True, slots=True)
class ChildReport:
    """One child. `since` wall seconds; `owner` as in a claim; `trouble` with the database."""

    name: str
    role: str
    pid: int | None
    owner: str
    state: str
    since: float
    restarts: int
    trouble: str


@dataclass(frozen=True, slots=True)
class Report:
    """The appliance. `reloads` counts the configurations taken; `problem` is of the last reload.

    `settings`: what it goes by, whatever its files say by now.
    """

    pid: int
    version: str
    config: str
    since: float
    ready: bool
    reloads: int
    problem: str
    processes: list[ChildReport]
    settings: list[Effective]


def report_file(runtime_directory: Path) -> Path:
    return runtime_directory / "processes.json"


def write_report(config: Config, report: Report) -> bool:
    """Replaced as a whole, so that a reader never sees half of it.

    False where it cannot be written: a full disk must not end the supervisor.
    """
    file = report_file(config.runtime_directory)
    temporary = file.with_suffix(".new")
    try:
        temporary.write_text(json.dumps(asdict(report)))
        temporary.replace(file)
    except OSError:
        return False
    return True


def read_report(runtime_directory: Path) -> Report | None:
    """None where there is none, or one of another version."""
    try:
        values: dict[str, Any] = json.loads(report_file(runtime_directory).read_text())
        children = [ChildReport(**child) for child in values.pop("processes")]
        settings = [Effective(*row) for row in values.pop("settings")]
        return Report(**values, processes=children, settings=settings)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # garbage
