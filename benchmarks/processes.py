"""What the kernel says of processes, out of /proc: CPU, memory, wake-ups, bytes written."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
Roles = dict[int, str]


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """User and system time of each process."""
    return {pid: parse_cpu(Path(f"/proc/{pid}/stat").read_text()) for pid in pids}


def pss_mib(pids: Iterable[int]) -> float:
    """Memory of all, shared pages counted once, in MiB."""
    texts = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(parse_field(text, "Pss") for text in texts) / 1024


def rss_mib(pids: Iterable[int]) -> float:
    """Memory of all, shared pages counted in each, in MiB."""
    texts = (Path(f"/proc/{pid}/status").read_text() for pid in pids)
    return sum(parse_field(text, "VmRSS") for text in texts) / 1024


def switches(pids: Iterable[int]) -> int:
    """Context switches of all threads so far: how often each got a core."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            text = (task / "status").read_text()
            total += parse_field(text, "voluntary_ctxt_switches")
            total += parse_field(text, "nonvoluntary_ctxt_switches")
    return total


def bytes_written(pids: Iterable[int]) -> int:
    """What all caused to be written to a disk so far."""
    texts = (Path(f"/proc/{pid}/io").read_text() for pid in pids)
    return sum(parse_field(text, "write_bytes") for text in texts)


def by_role(roles: Roles, seconds: Callable[[int], float]) -> dict[str, float]:
    """Sums of what each process has, by its role."""
    found: dict[str, float] = defaultdict(float)
    for pid, role in roles.items():
        found[role] += seconds(pid)
    return found


def parse_cpu(stat: str) -> float:
    """Fields 14 and 15 of /proc/PID/stat, in seconds; the name before them may have spaces."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def parse_field(text: str, name: str) -> int:
    """The number of the line `NAME: NUMBER …`."""
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"no {name} in {text!r}")
