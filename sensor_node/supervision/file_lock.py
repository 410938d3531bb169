"""A flock on the database file itself: it works by whatever name others reach the file.

SQLite's own locks are of another kind (fcntl) and do not conflict with this one. When a process
closes a descriptor of the database, it loses SQLite's locks. So only the supervisor, which never
has a connection, may use this. See docs/adr/0021.
"""

import fcntl
import os
from pathlib import Path

from sensor_node.system import locks, proc
from sensor_node.system.files import is_foreign_link, is_same_file, real

READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FileLock:
    """A lock on the file that bears the database's name, whichever that is by now."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._fd = -1

    def keep(self) -> bool:
        """Hold the lock of the file that bears the name now. False if another process has it.

        If there is no such file, keep the last one's lock: its directory may come back.
        """
        place = real(self._database)
        if is_foreign_link(self._database):
            return True  # none of our processes opens another user's link
        if self._fd >= 0 and is_same_file(os.fstat(self._fd), place):
            return True
        fd = _open(place)
        if fd is None:
            return True
        # Close the old one first: on an overlay, the same file may look like another one once it
        # has been written to, and our own lock would be in the way.
        self.close()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            return not isinstance(
                error, BlockingIOError
            )  # no memory for a lock: the next pass tries again
        self._fd = fd
        return True

    def close(self) -> None:
        """A second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _open(place: Path) -> int | None:
    """A descriptor to lock, not to read; None if there is no file, or we may not open it."""
    try:
        if place.is_file():  # to open a device or a pipe may have effects
            return os.open(place, READ)
    except OSError:
        return None
    return None


def holder(file: os.stat_result) -> int | None:
    """The pid of the other process that took an appliance's flock on this file and still has it.

    None if it has died and left the lock to its children, or cannot be seen from here.
    """
    for lock in locks.on(file):
        is_appliance = (lock.kind, lock.mode) == ("FLOCK", "WRITE") and lock.pid != os.getpid()
        if is_appliance and _may_have_open(lock.pid, file):
            return lock.pid
    return None


def _may_have_open(pid: int, file: os.stat_result) -> bool:
    try:
        return proc.has_open(pid, file)
    except PermissionError:
        return True
