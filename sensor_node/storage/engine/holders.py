"""Finds the programs that hold locks on the database, without opening a file of it.

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
    """A process that has a transaction open."""

    pid: int
    name: str  # its command's
    writes: bool  # the transaction keeps other writers out

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def find(database: Path, supervisor: int | None, proc: Path = PROC) -> list[Holder]:
    """Programs in a transaction now, without this process, the supervisor and its children.

    `supervisor` is a pid. Processes of another pid namespace, which proc does not show, are left
    out.
    """
    shm_locks = _locks(shm_of(database), proc)
    writing = {lock.pid for lock in shm_locks if _touches(lock, WRITE_BYTE, WRITE_BYTE)}
    reading = {lock.pid for lock in shm_locks if _touches(lock, WRITE_BYTE + 1, LAST_READ_BYTE)}
    writing |= {lock.pid for lock in _locks(database, proc) if lock.mode == "WRITE"}
    return [
        Holder(pid, _name(pid, proc), pid in writing)
        for pid in sorted(writing | reading)
        if not _is_ours(pid, supervisor, proc)
    ]


def is_open(database: Path, proc: Path = PROC) -> bool:
    """Whether a program certainly has the database open, in a transaction or not."""
    try:
        file = shm_of(database).stat()
    except OSError:
        return False
    # The device counts as well as the inode: small disks have equal inode numbers.
    shm_locks = [lock for lock in locks.on(file, proc) if lock.device == file.st_dev]
    return any(
        lock.kind == "POSIX" and lock.mode == "READ" and _touches(lock, OPEN_BYTE, OPEN_BYTE)
        for lock in shm_locks
    )


def _locks(file: Path, proc: Path) -> list[Lock]:
    """SQLite's locks on the file, which are POSIX ones, but those whose pid nobody can tell.

    The kernel tells no pid of a lock that one of several threads has.
    """
    try:
        file_locks = locks.on(file.stat(), proc)
    except OSError:
        return []
    return [lock for lock in file_locks if lock.kind == "POSIX" and lock.pid > 0]


def _touches(lock: Lock, first: int, last: int) -> bool:
    return lock.start <= last and (lock.end is None or lock.end >= first)


def _is_ours(pid: int, supervisor: int | None, proc: Path) -> bool:
    if pid in (os.getpid(), supervisor):
        return True
    try:
        fields = stat_fields(pid, proc)
    except OSError:  # hidepid hides another user's process
        return False
    return bool(fields) and int(fields[PARENT]) == supervisor


def _name(pid: int, proc: Path) -> str:
    """The command's name, made printable: the program itself may have set it."""
    try:
        name = (proc / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        name = ""
    return visible(name) or "a program"
