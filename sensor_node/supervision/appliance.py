"""Runs the appliance in this process: checks and locks its place, then runs the supervisor."""

import os
import time

from sensor_node.config.loader import Config
from sensor_node.core.errors import ConfigError, SensorNodeError
from sensor_node.supervision.disk import insist_on_disk, note_disk
from sensor_node.supervision.lock_keeper import LockKeeper
from sensor_node.supervision.logfile import log_file
from sensor_node.supervision.pidfile import remove_pid_file
from sensor_node.supervision.states import read_report
from sensor_node.supervision.supervisor import Supervisor
from sensor_node.supervision.systemd import Notifier
from sensor_node.system import log
from sensor_node.system.files import is_irregular

LOCK_POLL_SECONDS = 0.1


def run(config: Config) -> int:
    """Run until stopped. Returns the exit status. Raises SensorNodeError if it cannot begin."""
    notifier = Notifier()
    try:
        os.umask(0o027)
        log.configure(config.log.level, log_file(config))
        make_directories(config)
        lock_keeper = LockKeeper(config)
        _take(lock_keeper, config, notifier)
        note_disk(config)
        lock_keeper.be_found(config)
    except SensorNodeError as error:
        notifier.send(f"STATUS={error}")
        raise
    try:
        return Supervisor(config, lock_keeper, notifier).run()
    finally:
        remove_pid_file(config)


def make_directories(config: Config) -> None:
    """Raises ConfigError if the database cannot be written, SensorNodeError without its disk."""
    insist_on_disk(config)
    for directory in (config.state_directory, config.runtime_directory, config.storage.path.parent):
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{directory}: cannot be made: {error.strerror}") from error
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ConfigError(f"{directory}: cannot be written; see its owner and mount options")
    for entry in (*config.state_directory.iterdir(), *config.runtime_directory.iterdir()):
        # Another user who may write here must not make us, perhaps root, write elsewhere.
        if entry.is_symlink() and entry != config.storage.path:
            raise ConfigError(f"{entry}: is a symbolic link; remove it")
    database = config.storage.path
    if is_irregular(database):
        raise ConfigError(f"{database}: is no file; set another [storage] path")
    if database.exists() and not os.access(database, os.R_OK | os.W_OK):
        cannot = "written" if os.access(database, os.R_OK) else "read"
        raise ConfigError(f"{database}: cannot be {cannot} by this user; see its owner and mode")


def _take(lock_keeper: LockKeeper, config: Config, notifier: Notifier) -> None:
    """Take the appliance's place; wait for children of a supervisor that was killed."""
    path, timeout = config.storage.path, config.process.stop_timeout
    deadline = 0.0
    while not lock_keeper.take():
        if pid := lock_keeper.holder(config):
            raise SensorNodeError(f"{path}: is in use by the appliance with pid {pid}")
        if not deadline:
            deadline = time.monotonic() + timeout
            notifier.send(
                f"EXTEND_TIMEOUT_USEC={int((timeout + 5) * 1e6)}",
                f"STATUS=waiting for {_survivors(lock_keeper, config)}",
            )
        elif time.monotonic() >= deadline:
            raise SensorNodeError(
                f"{path}: is in use by {_survivors(lock_keeper, config)}; "
                "they end with their request, or kill them"
            )
        time.sleep(LOCK_POLL_SECONDS)


def _survivors(lock_keeper: LockKeeper, config: Config) -> str:
    report = read_report(config.runtime_directory)
    names = {child.pid: child.name for child in report.processes} if report else {}
    living = [f"{names.get(pid, 'process')} (pid {pid})" for pid in lock_keeper.sharers(config)]
    if living:
        return f"processes of the last run: {', '.join(living)}"
    return "processes that cannot be seen from here, perhaps in another container"
