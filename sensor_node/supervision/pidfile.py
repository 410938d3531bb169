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

    It is free only when the supervisor and all its children are gone. So whoever takes it knows
    that every batch that is SENDING is a dead process's. The file is empty and never deleted.
    """

    def __init__(self, config: Config) -> None:
        """Open the lock file.

        Raises ConfigError, and makes no file, if the database's path is another user's link.
        Raises SensorNodeError if the file cannot be opened.
        """
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
        """Where a new appliance would look for it now; the database's link may have changed."""
        return lock_file(self._config)

    def take(self) -> bool:
        """Try to take the lock, without waiting. Whether it is ours."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_in_place(self) -> bool:
        """Whether a new appliance would find this very file."""
        return is_same_file(os.fstat(self.fd), self.file)

    def is_at_home(self) -> bool:
        """Whether its directory is still in its place, not moved away or replaced."""
        return is_same_file(self._directory, self._home)

    def close(self) -> None:
        os.close(self.fd)


def pid_file(runtime_directory: Path) -> Path:
    return runtime_directory / "sensor-node.pid"


def write_pid_file(config: Config) -> int:
    """Write the pid on the first line, as usual, and our owner id on the second.

    The owner id tells us from a later process with the same pid. Returns a descriptor that holds a
    lock on the file for as long as it is open: the lock proves that we live.

    Raises SensorNodeError if it cannot: nobody could find or stop such an appliance.
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
    """Try a few times: a process that checks the lock holds it for a moment."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_TRY_SECONDS)
        else:
            return


def remove_pid_file(config: Config) -> None:
    """Unless it is by now another process's."""
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
    """Whether that process is the supervisor that wrote the file.

    The file's lock shows it, even in a container whose /proc gives another boot id than the
    service sees. Where locks cannot be seen, the owner id must be a living process's, and of the
    user who owns the file.
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
    """Whether an owner id is well-formed and its process lives."""
    return re.fullmatch(OWNER_ID, owner_id) is not None and owner.is_alive(owner_id)


def has_lock(config: Config, pid: int) -> bool:
    """Whether the process belongs to the appliance in this place, whatever its pid file says.

    All its processes have the lock file open, and nobody can make another process open it.
    """
    try:
        return has_open(pid, lock_file(config).stat())
    except PermissionError:
        # It is another user's process: the kernel decides who may signal it. Root may always, so
        # root needs the lock as proof.
        return os.geteuid() != 0 or holder(lock_file(config).stat()) == pid
    except OSError:
        return False
