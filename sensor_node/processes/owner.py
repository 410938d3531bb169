"""Who holds a claim, and whether that process still lives.

An owner id is `role:boot_id:pid:start`. The start time is field 22 of /proc/PID/stat, in ticks
since boot. It does not move with the wall clock, and no two processes share both it and the pid.
"""

import os
from pathlib import Path

from sensor_node.system.proc import PROC, START_TICKS, STATE, boot_id, stat_fields

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def own_owner_id(role: str, proc: Path = PROC) -> str:
    """The owner id of this process."""
    return owner_id_of(role, os.getpid(), proc)


def owner_id_of(role: str, pid: int, proc: Path = PROC) -> str:
    """The owner id of a process that lives."""
    return f"{role}:{boot_id(proc)}:{pid}:{start_ticks(pid, proc)}"


def is_alive(owner: str, proc: Path = PROC) -> bool:
    """Whether the process of this owner id can still act; a zombie cannot."""
    fields = owner.split(":")
    if len(fields) != 4 or fields[1] != boot_id(proc) or not fields[2].isdecimal():
        return False  # of another boot; or damaged, and then nobody's
    ticks = start_ticks(int(fields[2]), proc)
    return ticks is not None and str(ticks) == fields[3]


def start_ticks(pid: int, proc: Path = PROC) -> int | None:
    """Start time in ticks since boot; None if there is no such process, or only its zombie."""
    fields = stat_fields(pid, proc)
    return int(fields[START_TICKS]) if fields and fields[STATE] not in ("Z", "X") else None


def age_seconds(pid: int, boottime: float, proc: Path = PROC) -> float | None:
    """Seconds since the process started; no step of the wall clock changes them. None as above.

    `boottime`: the seconds since boot.
    """
    ticks = start_ticks(pid, proc)
    return None if ticks is None else max(0.0, boottime - ticks / TICKS_A_SECOND)


def is_stopped(pid: int, proc: Path = PROC) -> bool:
    """Whether SIGSTOP or a debugger has stopped the process."""
    return stat_fields(pid, proc)[:1] in (["T"], ["t"])


def waits_for_disk(pid: int, proc: Path = PROC) -> bool:
    """Whether it waits in the kernel, where even SIGKILL takes no effect until the disk answers."""
    return stat_fields(pid, proc)[:1] == ["D"]
