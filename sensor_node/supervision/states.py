"""What the supervisor tells others about its children: the states and the report file."""

import enum
import errno
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from sensor_node.config.loader import Config, Effective
from sensor_node.system.files import open_unlinked

# Wall seconds that have a date.
END_OF_TIME = 253_402_300_800
MOST_PID = 2**22  # of the kernel; below 1, kill() means many processes


MOST_BYTES = 16 * 1024 * 1024
# No inode is left, or no block.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class ChildState(enum.StrEnum):
    STARTING = "STARTING"  # forked; its service is not open yet
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"  # died young; waits to be started again
    STOPPING = "STOPPING"  # asked to end
    STOPPED = "STOPPED"  # ended, not to be started again


@dataclass(frozen=True, slots=True)
class ChildReport:
    """One child. Times are wall seconds."""

    name: str  # sender-2
    role: str  # sender
    pid: int | None
    owner: str  # its owner id, as in its claims
    state: str  # of ChildState
    since: float  # when it came into this state
    restarts: int  # deaths in this place
    died_before: float  # the last death but one; 0: never
    trouble: str  # why it cannot use the database; empty: it can
    trouble_since: float  # 0: no trouble


@dataclass(frozen=True, slots=True)
class Report:
    """The whole appliance, as the supervisor knows it."""

    pid: int  # the supervisor's
    version: str
    config: str  # the file
    node: str  # the name its readings bear, even if the host has another name by now
    since: float  # when the supervisor started, in wall seconds
    ready: bool  # all children have been RUNNING since the start, or since the last reload
    reloads: int  # how many there were, refused ones too
    stopping: bool
    problem: str  # why the last reload was refused; empty: it was not
    processes: list[ChildReport]
    settings: list[Effective]  # in use now; the files may have changed since


@dataclass(frozen=True, slots=True)
class Outline:
    """What the report of every version says: after an upgrade the old version may still run."""

    pid: int
    version: str
    ready: bool


def report_file(runtime_directory: Path) -> Path:
    return runtime_directory / "processes.json"


def write_report(config: Config, report: Report) -> bool:
    """Replace the report as a whole, so that a reader never sees half of it.

    If there is no room for a second file, overwrite the first: a reader takes half a report for
    none, and looks again. Returns False if that fails too; a full disk must not end the supervisor.
    """
    file, text = report_file(config.runtime_directory), json.dumps(asdict(report))
    temporary = file.with_suffix(".new")
    try:
        with open_unlinked(temporary, "w") as opened:
            opened.write(text)
        temporary.replace(file)
    except OSError as error:
        return error.errno in NO_ROOM and _write_over(file, text)
    return True


def _write_over(file: Path, text: str) -> bool:
    try:
        with open_unlinked(file, "r+") as opened:
            opened.write(text)
            opened.truncate()
    except OSError:
        return False
    return True


def read_outline(runtime_directory: Path, pid: int | None) -> Outline | None:
    """None if that supervisor has no report."""
    try:
        values = _read(runtime_directory)
        outline = Outline(values["pid"], values["version"], values["ready"])
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return outline if _is_sound(outline) and outline.pid == pid else None


def report_of(runtime_directory: Path, pid: int | None) -> Report | None:
    """None if that supervisor has none: soon after a start the last run's may still be there."""
    report = read_report(runtime_directory)
    return report if report and report.pid == pid else None


def read_report(runtime_directory: Path) -> Report | None:
    """None if there is none, or if it is of another version."""
    try:
        values = _read(runtime_directory)
        children = [ChildReport(**child) for child in values.pop("processes")]
        settings = [Effective(*row) for row in values.pop("settings")]
        report = Report(**values, processes=children, settings=settings)
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = all(map(_is_sound, (report, *children, *settings)))
    return report if sound else None


def _read(runtime_directory: Path) -> dict[str, Any]:
    with open_unlinked(report_file(runtime_directory)) as opened:
        values: dict[str, Any] = json.loads(opened.read(MOST_BYTES))
    return values


def _is_sound(record: Any) -> bool:
    """Whether each value is of the type that the supervisor writes, and in its range."""
    for name, kind in get_type_hints(type(record)).items():
        if not isinstance(getattr(record, name), list if get_origin(kind) is list else kind):
            return False
    pid = getattr(record, "pid", None)
    times = (getattr(record, name, 0) for name in ("since", "died_before", "trouble_since"))
    return (pid is None or 0 < pid <= MOST_PID) and all(0 <= at < END_OF_TIME for at in times)
