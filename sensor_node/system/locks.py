"""Who holds which lock on a file, as the kernel tells it in /proc/locks; see proc_locks(5)."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from sensor_node.system.proc import PROC

# Number, kind, ADVISORY or the like, mode, pid, device and inode, first and last byte. One that
# waits for a lock has "->" before its kind.
LINE = re.compile(
    r"\d+: (\w+) +\w+ +(\w+) +(-?\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) (\d+) (\d+|EOF)", re.ASCII
)


class Lock(NamedTuple):
    """One that is held. `kind`: FLOCK, POSIX, OFDLCK …; `mode`: READ or WRITE.

    `pid`: who took it, which may have died since and left it to a child; 0 or -1 where the kernel
    does not say. `device` as in st_dev; `end`: the last byte, None for all there will be.
    """

    kind: str
    mode: str
    pid: int
    device: int
    inode: int
    start: int
    end: int | None


def parse(text: str) -> list[Lock]:
    """The locks that are held, of the text of /proc/locks; what waits for one is left out."""
    found = []
    for line in filter(None, map(LINE.fullmatch, text.splitlines())):
        kind, mode, pid, major, minor, inode, start, end = line.groups()
        device = os.makedev(int(major, 16), int(minor, 16))
        last = None if end == "EOF" else int(end)
        found.append(Lock(kind, mode, int(pid), device, int(inode), int(start), last))
    return found


def of_file(file: os.stat_result, locks: list[Lock]) -> list[Lock]:
    """Those on the file; on file systems that tell stat() another device, by the inode alone."""
    inode = [lock for lock in locks if lock.inode == file.st_ino]
    return [lock for lock in inode if lock.device == file.st_dev] or inode


def on(file: os.stat_result, proc: Path = PROC) -> list[Lock]:
    """Those on the file, as far as they can be seen from here.

    The kernel hides those of processes of other pid namespaces, such as containers'.
    """
    try:
        text = (proc / "locks").read_text()
    except OSError:
        return []
    return of_file(file, parse(text))
