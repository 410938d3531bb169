"""Who holds a claim, and whether that process still lives.

An owner is `role:boot_id:pid:start`. The start time is field 22 of /proc/PID/stat, in ticks since
boot: it does not move with the wall clock, and no two processes share it and the pid.
"""

import os
from pathlib import Path

PROC = Path("/proc")


def own_identity(role: str, proc: Path = PROC) -> str:
    """The owner text of this process."""
    pid = os.getpid()
    return f"{role}:{boot_id(proc)}:{pid}:{start_ticks(pid, proc)}"


def is_alive(owner: str, proc: Path = PROC) -> bool:
    """Whether the process that the text means can still act; a zombie cannot."""
    _, boot, pid, ticks = owner.split(":")
    return boot == boot_id(proc) and start_ticks(int(pid), proc) == int(ticks)


def boot_id(proc: Path = PROC) -> str:
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int, proc: Path = PROC) -> int | None:
    """Start time in ticks since boot; None where there is no such process, or only its zombie."""
    fields = _stat(pid, proc)
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else None


def is_stopped(pid: int, proc: Path = PROC) -> bool:
    """Whether SIGSTOP, or a debugger, keeps the process from going on."""
    return _stat(pid, proc)[:1] in (["T"], ["t"])


def _stat(pid: int, proc: Path) -> list[str]:
    """The fields of /proc/PID/stat from the third on, the state; none if there is no process."""
    try:
        stat = (proc / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The name, in parentheses, may contain anything.
    return stat[stat.rindex(")") + 2 :].split()
