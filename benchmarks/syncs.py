"""Counts the fsync calls of running processes, with strace."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.trial import PREFIX

CALLS = ("fsync", "fdatasync", "sync_file_range")
# strace has attached itself by then.
ATTACH_SECONDS = 1.0


def is_possible() -> bool:
    return shutil.which("strace") is not None


def counted(pids: Iterable[int], seconds: float) -> dict[int, int]:
    """Calls of each process and its threads within so many seconds; empty if it may not look."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        files = {pid: Path(name, str(pid)) for pid in pids}
        tracers = [
            subprocess.Popen(
                [
                    "strace",
                    "-f",
                    "-c",
                    "-e",
                    f"trace={','.join(CALLS)}",
                    "-o",
                    file,
                    "-p",
                    str(pid),
                ],
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for pid, file in files.items()
        ]
        try:
            time.sleep(ATTACH_SECONDS + seconds)
            allowed = all(tracer.poll() is None for tracer in tracers)
        finally:
            for tracer in tracers:
                tracer.terminate()  # it lets the process go and writes its table
            for tracer in tracers:
                tracer.wait()
        return {pid: parse(file.read_text()) for pid, file in files.items()} if allowed else {}


def parse(table: str) -> int:
    """Calls of what strace -c prints: % time, seconds, usecs/call, calls[, errors], syscall."""
    rows = (line.split() for line in table.splitlines())
    return sum(int(row[3]) for row in rows if row and row[-1] in CALLS)
