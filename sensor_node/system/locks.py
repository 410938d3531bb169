"""Which processes hold locks on a file, by the kernel's /proc/locks; see proc_locks(5)."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from sensor_node.system.proc import PROC

# Number, kind, ADVISORY or the like, mode, pid, device and inode, first and last byte. A lock that
# somebody waits for has "->" before its kind, and does not match.
LINE = re.compile(
    r"\d+: (\w+) +\w+ +(\w+) +(-?\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) (\d+) (\d+|EOF)", re.ASCII
)


class Lock(NamedTuple):
    """A lock that is held."""

    kind: str  # FLOCK, POSIX, OFDLCK …
    mode: str  # READ or WRITE
    # The process that took it; it may have died since and left the lock to a child. 0 or -1 if the
    # kernel does not say.
    pid: int
    device: int  # as st_dev
    inode: int
    start: int  # the first byte
    end: int | None  # the last byte; None: to the end of the file, however long it grows


def parse(text: str) -> list[Lock]:
    """The locks that are held, from the text of /proc/locks."""
    locks = []
    for line in filter(None, map(LINE.fullmatch, text.splitlines())):
        kind, mode, pid, major, minor, inode, start, end = line.groups()
        device = os.makedev(int(major, 16), int(minor, 16))
        last = None if end == "EOF" else int(end)
        locks.append(Lock(kind, mode, int(pid), device, int(inode), int(start), last))
    return locks


def of_file(file: os.stat_result, locks: list[Lock]) -> list[Lock]:
    """Those on the file. Some file systems give stat() another device: then by the inode alone."""
    same_inode = [lock for lock in locks if lock.inode == file.st_ino]
    return [lock for lock in same_inode if lock.device == file.st_dev] or same_inode


def on(file: os.stat_result, proc: Path = PROC) -> list[Lock]:
    """The present locks on the file that this process can see.

    The kernel hides those of processes in other pid namespaces, such as containers.
    """
    try:
        text = (proc / "locks").read_text()
    except OSError:
        return []
    return of_file(file, parse(text))
