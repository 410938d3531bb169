"""What the kernel says about processes and their locks: the test's eyes, from outside."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

PROC = Path("/proc")
# SQLite's locks on the -shm file are bytes; see "The WAL-Index File Format", locking.
WAL_WRITE, WAL_CHECKPOINT = 120, 121
# The processes that a test has killed, or stopped so that the product may kill them.
victims: set[int] = set()


def send(pid: int, number: int) -> None:
    """A signal that the process does not survive, or may be killed for: its death is asked for."""
    victims.add(pid)
    os.kill(pid, number)


def is_alive(pid: int) -> bool:
    """Whether any thread of the process is left: a zombie has none, or is still ended by one.

    Who is killed in a system call, such as fsync, holds files and locks until that is over. Its
    main thread may be a zombie by then.
    """
    if state(pid) not in ("", "Z", "X"):
        return True
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return len(os.listdir(PROC / str(pid) / "task")) > 1
    return False


def state(pid: int) -> str:
    """R, S, D, T …; nothing where there is no such process."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return stat[stat.rindex(")") + 2]


def pending(pid: int) -> set[int]:
    """The signals that have been sent to the process and that it has not taken yet."""
    mask = int(_status(pid)["ShdPnd"], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def parent(pid: int) -> int:
    return int(_status(pid)["PPid"])


def data_bytes(pid: int) -> int:
    """The memory that RLIMIT_DATA counts: private and writable."""
    return int(_status(pid)["VmData"].split()[0]) * 1024


def with_argument(argument: str) -> list[int]:
    """The living processes that have this among the arguments of their command line."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if argument.encode() in arguments and is_alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def holders(file: Path, byte: int | None = None) -> set[int]:
    """The processes that hold a flock on the file or, with `byte`, a write lock on that byte."""
    wanted = ("POSIX", str(byte)) if byte else ("FLOCK", "0")
    inode = str(file.stat().st_ino)
    return {
        int(pid)
        for kind, mode, pid, place, start in _locks(waiting=False)
        if mode == "WRITE" and (kind, start) == wanted and place.endswith(f":{inode}")
    }


def waits_for(pid: int, *files: Path) -> bool:
    """Whether the process sleeps until it gets a lock on one of the files."""
    inodes = {str(file.stat().st_ino) for file in files}
    return any(
        int(waiter) == pid and place.rpartition(":")[2] in inodes
        for _, _, waiter, place, _ in _locks(waiting=True)
    )


def stop_in_the_act(pid: int, holds: Callable[[], bool], deadline: float = 90.0) -> None:
    """SIGSTOP the process at a moment when `holds()` is true, however short that moment is."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        if not holds():
            continue
        send(pid, signal.SIGSTOP)
        while state(pid) not in ("T", ""):
            continue
        if holds():
            return
        os.kill(pid, signal.SIGCONT)
    raise AssertionError(f"process {pid} was not caught in the act within {deadline:g} s")


def _status(pid: int) -> dict[str, str]:
    lines = (PROC / str(pid) / "status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines)


def _locks(*, waiting: bool) -> list[tuple[str, str, str, str, str]]:
    """Kind, mode, pid, device:inode and first byte of each lock that is held, or waited for."""
    found = []
    for line in (PROC / "locks").read_text().splitlines():
        fields = line.split()[1:]
        blocked = fields[0] == "->"
        kind, _, mode, pid, place, start, _ = fields[1:] if blocked else fields
        if blocked == waiting:
            found.append((kind, mode, pid, place, start))
    return found
