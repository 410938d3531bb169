"""What /proc says of processes: which boot this is, and which process a number means."""

import contextlib
import os
from pathlib import Path

from sensor_node.places import bears_name

PROC = Path("/proc")
# In the fields that stat_fields() gives: proc(5) counts the state as field 3.
STATE, PARENT, START_TICKS = 0, 1, 19


def boot_id(proc: Path = PROC) -> str:
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def stat_fields(pid: int, proc: Path = PROC) -> list[str]:
    """The fields of /proc/PID/stat from the third on, the state; none if there is no process."""
    try:
        stat = (proc / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The name, in parentheses, may contain anything.
    return stat[stat.rindex(")") + 2 :].split()


def has_open(pid: int, file: os.stat_result, proc: Path = PROC) -> bool:
    """Whether the process has the file open. Raises PermissionError where it is another user's."""
    try:
        # A descriptor may be closed meanwhile.
        return any(bears_name(file, entry) for entry in (proc / str(pid) / "fd").iterdir())
    except PermissionError:
        raise
    except OSError:
        return False


def with_open(file: os.stat_result, proc: Path = PROC) -> list[int]:
    """The processes that have the file open, as far as that can be seen from here."""
    found = []
    for entry in proc.iterdir():
        with contextlib.suppress(PermissionError):
            if entry.name.isdecimal() and has_open(int(entry.name), file, proc):
                found.append(int(entry.name))
    return found
