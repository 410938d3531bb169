"""What /proc says of processes: which boot this is, and which process a number means."""

from pathlib import Path

PROC = Path("/proc")
# In the fields that stat_fields() gives: proc(5) counts the state as field 3.
STATE, START_TICKS = 0, 19


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
