"""Keeps the lock and the pid file by which others find a running appliance; both may be deleted."""

import contextlib
import enum
import os
from pathlib import Path

from sensor_node.config.loader import Config
from sensor_node.core.errors import SensorNodeError
from sensor_node.supervision.file_lock import FileLock, holder
from sensor_node.supervision.pidfile import ApplianceLock, pid_file, write_pid_file
from sensor_node.system import proc
from sensor_node.system.log import LOGGER


class LockState(enum.Enum):
    """What has happened to the appliance's files since the last check."""

    AS_IT_WAS = "all is there"
    PID_FILE_MADE_ANEW = "the pid file was gone, or empty"
    LOCK_MADE_ANEW = "the lock was gone; the children have one that nobody else can see"
    TAKEN = "another appliance has taken the place"


class LockKeeper:
    """Holds the appliance's lock, which children inherit, the database's lock, and the pid file."""

    def __init__(self, config: Config) -> None:
        self._lock = ApplianceLock(config)
        self._file = FileLock(config.storage.path)
        self._pid_file = -1

    def take(self) -> bool:
        """Try to take both locks, without waiting. True if no other process has one of them."""
        return self._lock.take() and self._file.keep()

    def be_found(self, config: Config) -> None:
        """Write the pid file, so that others find us. Raises SensorNodeError if it cannot."""
        self._close_pid_file()  # the old descriptor's lock would be in the way of the new one
        self._pid_file = write_pid_file(config)

    def _close_pid_file(self) -> None:
        if self._pid_file >= 0:
            os.close(self._pid_file)
        self._pid_file = -1

    def holder(self, config: Config) -> int | None:
        """The living supervisor of another appliance that has the place, or the database."""
        return next(filter(None, map(holder, self._files(config))), None)

    def sharers(self, config: Config) -> list[int]:
        """The pids of other visible processes that have the lock file or the database open."""
        pids = {pid for file in self._files(config) for pid in proc.pids_with_open(file)}
        return sorted(pids - {os.getpid()})

    def _files(self, config: Config) -> list[os.stat_result]:
        files = [os.fstat(self._lock.fd)]
        with contextlib.suppress(OSError):
            files.append(config.storage.path.stat())
        return files

    @property
    def lock_fd(self) -> int:
        """The lock's descriptor; keep() may replace it."""
        return self._lock.fd

    @property
    def is_in_place(self) -> bool:
        """Whether nobody else can have taken the place."""
        return self._lock.is_in_place()

    def close(self) -> None:
        """Let go of the place."""
        self._lock.close()
        self._file.close()
        self._close_pid_file()

    def keep(self, config: Config) -> LockState:
        """Make deleted files anew, and see whether the place is still ours.

        If our directory was moved away, nothing is written into the one that has replaced it. We go
        on, as ours may come back, until another appliance takes the place: TAKEN.
        """
        state = self._keep_place(config)
        if state is not LockState.TAKEN and self.is_in_place and not self._file.keep():
            path, pid = config.storage.path, self.holder(config)
            LOGGER.error("place_taken %s: pid %s has the file; this one ends", path, pid)
            return LockState.TAKEN
        return state

    def _keep_place(self, config: Config) -> LockState:
        if self._lock.is_in_place():
            return self._keep_pid_file(config)
        at_home = self._lock.is_at_home()
        if not at_home and _size(self._lock.file) is None:
            return LockState.AS_IT_WAS
        try:
            lock = ApplianceLock(config)
        except SensorNodeError:
            return LockState.AS_IT_WAS
        if not lock.take():
            lock.close()
            LOGGER.error("place_taken %s: another appliance has it; this one ends", lock.file)
            return LockState.TAKEN
        if not at_home:
            lock.close()
            return LockState.AS_IT_WAS
        self._lock.close()
        self._lock = lock
        return LockState.LOCK_MADE_ANEW

    def _keep_pid_file(self, config: Config) -> LockState:
        if not _size(pid_file(config.runtime_directory)):
            with contextlib.suppress(SensorNodeError):  # no directory, or no room
                self.be_found(config)
                return LockState.PID_FILE_MADE_ANEW
        return LockState.AS_IT_WAS


def _size(file: Path) -> int | None:
    """In bytes; None if there is no such file, or it cannot be seen."""
    try:
        return file.stat().st_size
    except OSError:
        return None
