"""Which programs hold locks on the database: no file of the database is opened to find out.

For the bytes of the -shm file see https://www.sqlite.org/walformat.html#wal_locks.
"""

import os
from pathlib import Path
from typing import NamedTuple

from sensor_node.storage.engine.quarantine import shm_of
from sensor_node.system import locks
from sensor_node.system.locks import Lock
from sensor_node.system.proc import PARENT, PROC, stat_fields
from sensor_node.system.text import visible

WRITE_BYTE, LAST_READ_BYTE = 120, 127
OPEN_BYTE = 128


class Holder(NamedTuple):
    """A process by its command's name; `writes`: in a transaction that keeps other writers out."""

    pid: int
    name: str
    writes: bool

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def find(database: Path, supervisor: int | None, proc: Path = PROC) -> list[Holder]:
    """Those who read or write in a transaction now, but for this process and the supervisor's.

    None of a process that proc does not show: one in another pid namespace.
    """
    held = _locks(shm_of(database), proc)
    writing = {lock.pid for lock in held if _touches(lock, WRITE_BYTE, WRITE_BYTE)}
    reading = {lock.pid for lock in held if _touches(lock, WRITE_BYTE + 1, LAST_READ_BYTE)}
    writing |= {lock.pid for lock in _locks(database, proc) if lock.mode == "WRITE"}
    return [
        Holder(pid, _name(pid, proc), pid in writing)
        for pid in sorted(writing | reading)
        if not _is_ours(pid, supervisor, proc)
    ]


def is_open(database: Path, proc: Path = PROC) -> bool:
    """Whether it is certain that a program has it open, in a transaction or not."""
    try:
        file = shm_of(database).stat()
    except OSError:
        return False
    # Not by the inode alone: small disks give the same numbers.
    held = [lock for lock in locks.on(file, proc) if lock.device == file.st_dev]
    return any(
        lock.kind == "POSIX" and lock.mode == "READ" and _touches(lock, OPEN_BYTE, OPEN_BYTE)
        for lock in held
    )


def _locks(file: Path, proc: Path) -> list[Lock]:
    """Those that programs hold in SQLite's way; one of several threads has no pid."""
    try:
        found = locks.on(file.stat(), proc)
    except OSError:
        return []
    return [lock for lock in found if lock.kind == "POSIX" and lock.pid > 0]


def _touches(lock: Lock, first: int, last: int) -> bool:
    return lock.start <= last and (lock.end is None or lock.end >= first)


def _is_ours(pid: int, supervisor: int | None, proc: Path) -> bool:
    if pid in (os.getpid(), supervisor):
        return True
    try:
        fields = stat_fields(pid, proc)
    except OSError:  # with hidepid another user's process shows nothing
        return False
    return bool(fields) and int(fields[PARENT]) == supervisor


def _name(pid: int, proc: Path) -> str:
    """It is another program's text."""
    try:
        name = (proc / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        name = ""
    return visible(name) or "a program"
