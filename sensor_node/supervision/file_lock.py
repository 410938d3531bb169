"""A flock on the database file itself: whatever it is called, it is the same file.

SQLite's own locks are of another kind (fcntl) and do not meet this one. To close a descriptor of a
database takes SQLite's locks from the process, so this is for the supervisor, which never has a
connection. See docs/adr/0021.
"""

import fcntl
import os
from pathlib import Path

from sensor_node.system import locks, proc
from sensor_node.system.files import is_foreign_link, is_same_file, real

READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FileLock:
    """Held on whichever file bears the database's name."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._fd = -1

    def keep(self) -> bool:
        """Have the lock of the file that bears the name now; False where another has it.

        Where there is no file, the last one's is kept: its directory may come back.
        """
        place = real(self._database)
        if is_foreign_link(self._database):
            return True  # nobody of ours opens what is there
        if self._fd >= 0 and is_same_file(os.fstat(self._fd), place):
            return True
        fd = _open(place)
        if fd is None:
            return True
        # First: an overlay may show the same file as another one, once it is written to.
        self.close()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            return not isinstance(error, BlockingIOError)  # no memory for a lock: the next turn
        self._fd = fd
        return True

    def close(self) -> None:
        """A second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _open(place: Path) -> int | None:
    """A descriptor that reads nothing; None where there is no file, or none for us."""
    try:
        if place.is_file():  # to open what is none may do something
            return os.open(place, READ)
    except OSError:
        return None
    return None


def holder(file: os.stat_result) -> int | None:
    """The other process that took an appliance's flock on this file, and still has it.

    None for one that has died and left the lock to its children, or that cannot be seen from here.
    """
    for lock in locks.on(file):
        is_one = (lock.kind, lock.mode) == ("FLOCK", "WRITE") and lock.pid != os.getpid()
        if is_one and _may_have_open(lock.pid, file):
            return lock.pid
    return None


def _may_have_open(pid: int, file: os.stat_result) -> bool:
    try:
        return proc.has_open(pid, file)
    except PermissionError:
        return True
