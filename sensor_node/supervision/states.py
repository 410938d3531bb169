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
    """One child. `since` wall seconds; `owner` as in a claim; `trouble` with the database.

    `died_before`: when it died for the last time but one, `trouble_since`: both wall seconds, 0 for
    never.
    """

    name: str
    role: str
    pid: int | None
    owner: str
    state: str
    since: float
    restarts: int
    died_before: float
    trouble: str
    trouble_since: float


@dataclass(frozen=True, slots=True)
class Report:
    """The appliance. `node`: its readings go by this name, whatever the host is called by now.

    `reloads` counts the configurations taken; `problem` is of the last reload.

    `settings`: what it goes by, whatever its files say by now.
    """

    pid: int
    version: str
    config: str
    node: str
    since: float
    ready: bool
    reloads: int
    stopping: bool
    problem: str
    processes: list[ChildReport]
    settings: list[Effective]


@dataclass(frozen=True, slots=True)
class Outline:
    """What the report of every version says: an upgrade may leave one running and bring another."""

    pid: int
    version: str
    ready: bool


def report_file(runtime_directory: Path) -> Path:
    return runtime_directory / "processes.json"


def write_report(config: Config, report: Report) -> bool:
    """Replaced as a whole, so that a reader never sees half of it.

    Where there is no room for another file, the one that is there is written over: half a report
    is none to a reader, who looks again. False where that fails too: a full disk must not end the
    supervisor.
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
    """None where there is no report of that supervisor."""
    try:
        values = _read(runtime_directory)
        outline = Outline(values["pid"], values["version"], values["ready"])
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return outline if _is_sound(outline) and outline.pid == pid else None


def report_of(runtime_directory: Path, pid: int | None) -> Report | None:
    """None where there is none of that supervisor: a start leaves the last run's for a while."""
    report = read_report(runtime_directory)
    return report if report and report.pid == pid else None


def read_report(runtime_directory: Path) -> Report | None:
    """None where there is none, or one of another version."""
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
    """Whether each value is of the kind that the supervisor writes."""
    for name, kind in get_type_hints(type(record)).items():
        if not isinstance(getattr(record, name), list if get_origin(kind) is list else kind):
            return False
    pid = getattr(record, "pid", None)
    times = (getattr(record, name, 0) for name in ("since", "died_before", "trouble_since"))
    return (pid is None or 0 < pid <= MOST_PID) and all(0 <= at < END_OF_TIME for at in times)
