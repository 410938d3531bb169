"""One appliance a database, and how others find it: the appliance's lock, the pid file."""

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path

from sensor_node.config.loader import Config
from sensor_node.core.errors import ConfigError, SensorNodeError
from sensor_node.processes import owner
from sensor_node.supervision.file_lock import holder
from sensor_node.system.files import (
    FOREIGN_LINK,
    is_foreign_link,
    is_same_file,
    open_unlinked,
    real,
)
from sensor_node.system.proc import has_open

MOST_BYTES = 1000
LOCK_SUFFIX = ".appliance"
LOCK_TRIES, LOCK_TRY_SECONDS = 100, 0.01
# As own_owner_id() makes it.
OWNER_ID = r"[a-z]+:[0-9a-f-]+:[0-9]{1,9}:[0-9]{1,19}"


def lock_file(config: Config) -> Path:
    """Beside the database itself, by whatever links one gets there."""
    database = real(config.storage.path)
    return database.with_name(database.name + LOCK_SUFFIX)


class ApplianceLock:
    """A flock beside the database that the children share by being forked.

    It is free only when the supervisor and all its children are gone, so that every batch that is
    SENDING then is known to be a dead process's. The file is empty and never deleted.
    """

    def __init__(self, config: Config) -> None:
        """Raises ConfigError, and makes nothing, where somebody's link says where it is to be."""
        if is_foreign_link(config.storage.path):
            raise ConfigError(f"{config.storage.path}: {FOREIGN_LINK}")
        self._config = config
        self._home = self.file.parent
        try:
            self._directory = self._home.stat()
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self.fd = os.open(self.file, flags, 0o660)
        except OSError as error:
            raise SensorNodeError(f"{self.file}: cannot be opened: {error.strerror}") from error

    @property
    def file(self) -> Path:
        """Where those who come now look for it: the database's link may have been turned."""
        return lock_file(self._config)

    def take(self) -> bool:
        """Whether the lock is ours now; does not wait."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_in_place(self) -> bool:
        """Whether those who come to take the lock now find this one, and no other."""
        return is_same_file(os.fstat(self.fd), self.file)

    def is_at_home(self) -> bool:
        """Whether the directory is the one that it was made in, and not a successor's."""
        return is_same_file(self._directory, self._home)

    def close(self) -> None:
        os.close(self.fd)


def pid_file(runtime_directory: Path) -> Path:
    return runtime_directory / "sensor-node.pid"


def write_pid_file(config: Config) -> int:
    """The pid on the first line, as everybody expects; then who that is, as pids are used again.

    Returns a descriptor: whoever keeps that has a lock on the file, and so is known to live.

    Raises SensorNodeError: an appliance that nobody can find or stop had better not start.
    """
    file, owner_id = pid_file(config.runtime_directory), owner.own_owner_id("supervisor")
    try:
        with open_unlinked(file, "w") as opened:
            opened.write(f"{os.getpid()}\n{owner_id}\n")
            opened.flush()
            _lock(opened.fileno())
            return os.dup(opened.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            file.unlink()  # an empty one would say that this appliance has died
        raise SensorNodeError(f"{file}: cannot be written: {error.strerror}") from error


def _lock(opened: int) -> None:
    """Whoever looks whether it is locked has it for a moment."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_TRY_SECONDS)
        else:
            return


def remove_pid_file(config: Config) -> None:
    """If it is this process's, and not a successor's."""
    if running_pid(config.runtime_directory) == os.getpid():
        with contextlib.suppress(FileNotFoundError):
            pid_file(config.runtime_directory).unlink()


def running_pid(runtime_directory: Path) -> int | None:
    """The supervisor's pid, if the pid file names a living one."""
    try:
        with open_unlinked(pid_file(runtime_directory)) as opened:
            text, owner_id = opened.read(MOST_BYTES).split()
            pid = int(text)
            lives = _holds(pid, os.fstat(opened.fileno()), owner_id)
    except PermissionError:
        raise
    except (OSError, ValueError):
        return None
    return pid if lives and owner_id.split(":")[2:3] == [text] else None


def _holds(pid: int, file: os.stat_result, owner_id: str) -> bool:
    """Whether it is a supervisor that keeps the file.

    The lock tells, also in a container where /proc names another boot than it does to the service.
    Where locks cannot be seen, it is at least of the user who wrote the file.
    """
    if holder(file) == pid:
        return True
    try:
        return is_appliance(owner_id) and Path(f"/proc/{pid}").stat().st_uid == file.st_uid
    except OSError:
        return False


def is_elsewhere(runtime_directory: Path) -> bool:
    """Whether the pid file is a living appliance's that cannot be seen from here."""
    try:
        with open_unlinked(pid_file(runtime_directory)) as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return running_pid(runtime_directory) is None
    except OSError:
        return False
    return False


def is_appliance(owner_id: str) -> bool:
    """Whether an owner text means a living process."""
    return re.fullmatch(OWNER_ID, owner_id) is not None and owner.is_alive(owner_id)


def has_lock(config: Config, pid: int) -> bool:
    """Whether the process is of the appliance that is found here, whatever a file here says.

    All of them have the appliance's lock open, and nobody can make a stranger open it.
    """
    try:
        return has_open(pid, lock_file(config).stat())
    except PermissionError:
        # Another user's, and the kernel decides; but root may do what it likes.
        return os.geteuid() != 0 or holder(lock_file(config).stat()) == pid
    except OSError:
        return False
