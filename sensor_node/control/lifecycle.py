"""start, stop, restart and reload where no systemd runs the node."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sensor_node.config.loader import Config
from sensor_node.control import exits, in_force
from sensor_node.control.status_report import buffered
from sensor_node.core.errors import ConfigError, SensorNodeError
from sensor_node.supervision.appliance import make_directories
from sensor_node.supervision.logfile import log_file
from sensor_node.supervision.pidfile import (
    has_lock,
    is_appliance,
    is_elsewhere,
    pid_file,
    running_pid,
)
from sensor_node.supervision.states import read_outline, read_report, report_of
from sensor_node.system.files import open_unlinked, real
from sensor_node.system.text import visible

START_SECONDS = 10.0
# The supervisor ends its children within stop_timeout. It gets this much more to end itself.
STOP_MARGIN_SECONDS = 15.0
RELOAD_SECONDS = 30.0
POLL_SECONDS = 0.05
NOT_RUNNING = "not running; start it with: sensor-node-ctl start"
OTHER_VERSION = "another version runs; take this one with: sensor-node-ctl restart"
STARTING = "it is still starting; try again when it runs"
ENDED = "it ended meanwhile; start it with: sensor-node-ctl start"
# Of unix(7): pid, uid, gid.
CREDENTIALS = struct.Struct("3i")


def start(config: Config) -> int:
    """Start in the background and return when every process is ready."""
    if not config.runtime_directory.is_dir():
        make_directories(config)
    with _only_command(config):
        return _start(config)


def stop(config: Config) -> int:
    """Stop gracefully, and by force if that takes too long; say what is still buffered."""
    if not config.runtime_directory.is_dir():
        print("not running")
        return exits.OK
    with _only_command(config):
        return _stop(config)


def restart(config: Config) -> int:
    """Stop by the configuration that the node runs with, then start with this one."""
    # Before the stop: what hinders the start is better known while the node still runs.
    make_directories(config)
    with _only_command(config):
        _stop(in_force.configuration(config.file))
        return _start(config)


@contextlib.contextmanager
def _only_command(config: Config) -> Iterator[None]:
    """One command at a time starts or stops the node. A later one waits, then sees the result.

    Raises SensorNodeError if the wait is too long.
    """
    limit = START_SECONDS + config.process.stop_timeout + STOP_MARGIN_SECONDS
    deadline = time.monotonic() + limit
    directory = os.open(config.runtime_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise SensorNodeError(
                        f"{config.runtime_directory}: another command starts or stops this node; "
                        "try again when it is done"
                    ) from None
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(directory)


def _start(config: Config) -> int:
    if (pid := running_pid(config.runtime_directory)) and not _ends_by_itself(config, pid):
        return _already_running(config, pid)
    make_directories(config)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        # An empty name has the kernel choose one that needs no file. Any process may send to it, so
        # the kernel is to name each sender.
        channel.bind("")
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        process = _spawn(config, "@" + channel.getsockname()[1:].decode())
        return _await_ready(process, channel, config)


def _already_running(config: Config, pid: int) -> int:
    """Another command has started the node, perhaps just now: wait until it is ready."""
    deadline = time.monotonic() + START_SECONDS
    while not ((report := report_of(config.runtime_directory, pid)) and report.ready):
        if time.monotonic() >= deadline or running_pid(config.runtime_directory) != pid:
            break
        time.sleep(POLL_SECONDS)
    _insist_on_this_configuration(config, pid)
    print(f"already running (pid {pid})")
    return exits.OK


def staying_pid(config: Config) -> int | None:
    """The pid of a supervisor that runs and has not been told to stop."""
    pid = running_pid(config.runtime_directory)
    report = report_of(config.runtime_directory, pid)
    return None if report and report.stopping else pid


def _ends_by_itself(config: Config, pid: int) -> bool:
    """Whether the supervisor has been told to stop. If so, wait for its end."""
    report = report_of(config.runtime_directory, pid)
    if not (report and report.stopping):
        return False
    supervisor = _open_pid(pid)
    if supervisor is not None:
        limit = config.process.stop_timeout + STOP_MARGIN_SECONDS
        ended = select.select([supervisor], [], [], limit)[0]
        os.close(supervisor)
        if not ended:
            raise SensorNodeError(f"process {pid} is stopping, and has not ended yet; try again")
    return True


def _stop(config: Config) -> int:
    pid = running_pid(config.runtime_directory)
    if pid is None and is_elsewhere(config.runtime_directory):
        raise SensorNodeError(
            "it runs where it cannot be seen from here, perhaps in another container: stop it there"
        )
    if pid is None:
        print("not running")
        return exits.OK
    supervisor = _open_pid(pid)
    _insist_on_lock(config, pid)
    if supervisor is not None:
        signal.pidfd_send_signal(supervisor, signal.SIGTERM)
        limit = config.process.stop_timeout + STOP_MARGIN_SECONDS
        if not select.select([supervisor], [], [], limit)[0]:
            _kill_all(config, supervisor)
        os.close(supervisor)
    print(visible(f"stopped; {buffered(config)}"))
    return exits.OK


def reload(config: Config) -> int:
    """Have the supervisor read the configuration, which is good, and wait for its children."""
    pid = running_pid(config.runtime_directory)
    if pid is None:
        raise SensorNodeError(NOT_RUNNING)
    _insist_on_this_configuration(config, pid)
    _insist_on_lock(in_force.configuration(config.file), pid)
    return reload_process(config, pid)


def reload_process(config: Config, pid: int) -> int:
    """As reload(), for a pid that is known to be this node's supervisor. It needs no /proc."""
    before = report_of(config.runtime_directory, pid)
    if before is None:
        other = read_outline(config.runtime_directory, pid)
        raise SensorNodeError(OTHER_VERSION if other else STARTING)
    os.kill(pid, signal.SIGHUP)
    _await_reload(config, pid, before.reloads)
    print("reloaded")
    return exits.OK


def reload_problem(config: Config) -> str:
    """Why the last reload was refused, or why none is possible; else empty."""
    pid = running_pid(config.runtime_directory)
    if not pid:
        return NOT_RUNNING
    report = report_of(config.runtime_directory, pid)
    return report.problem if report else ""


def _await_reload(config: Config, pid: int, reloads: int) -> None:
    """Wait until the supervisor has done one more reload than `reloads`.

    Raises SensorNodeError if it refuses, ends or takes too long.
    """
    deadline = time.monotonic() + config.process.stop_timeout + RELOAD_SECONDS
    while time.monotonic() < deadline:
        report = report_of(config.runtime_directory, pid)
        if report and report.reloads > reloads:
            if report.problem:
                raise SensorNodeError(report.problem)
            if report.ready:
                return
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            raise SensorNodeError(ENDED) from None
        time.sleep(POLL_SECONDS)
    raise SensorNodeError("the processes are not ready again; see: sensor-node-ctl status")


def _spawn(config: Config, address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sensor_node", "-c", str(config.file), "run"]
    environment = {**os.environ, "NOTIFY_SOCKET": address}
    environment.pop("JOURNAL_STREAM", None)
    with open_unlinked(log_file(config), "ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd="/",
            start_new_session=True,
        )


def _await_ready(process: subprocess.Popen[bytes], channel: socket.socket, config: Config) -> int:
    """Read the supervisor's notifications, as systemd would, until it is ready."""
    status = ""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll()
        channel.settimeout(POLL_SECONDS)
        try:
            lines = _receive(channel, process.pid)
            fields = dict(line.partition("=")[::2] for line in lines)
        except TimeoutError:
            if ended is None:
                continue
            if pid := running_pid(config.runtime_directory):
                return _already_running(config, pid)
            reason = status or f"it ended; see {log_file(config)}"
            kind = ConfigError if ended == exits.CONFIG else SensorNodeError
            raise kind(reason) from None
        if "READY" in fields:
            print(f"started (pid {process.pid}); see: sensor-node-ctl status")
            warn_of_trouble(storage_trouble(config))
            return exits.OK
        status = fields.get("STATUS", status)
        if "EXTEND_TIMEOUT_USEC" in fields:
            deadline = time.monotonic() + int(fields["EXTEND_TIMEOUT_USEC"]) / 1e6
            if "STATUS" in fields:
                print(f"sensor-node-ctl: {visible(status)}", file=sys.stderr, flush=True)
    raise SensorNodeError(f"not ready in time, but still trying; see {log_file(config)}")


def storage_trouble(config: Config) -> str:
    """Why the processes cannot use the database, though all have started; else empty."""
    report = report_of(config.runtime_directory, running_pid(config.runtime_directory))
    return ", ".join(sorted({child.trouble for child in report.processes} - {""} if report else ()))


def warn_of_trouble(trouble: str) -> None:
    """Warn beside "started": the node goes on trying, and keeps readings in memory meanwhile."""
    if trouble:
        print(
            f"sensor-node-ctl: but the database cannot be used: {visible(trouble)}; "
            "see: sensor-node-ctl status",
            file=sys.stderr,
        )


def _receive(channel: socket.socket, pid: int) -> list[str]:
    """The lines of one message; none if another process sent it."""
    size = CREDENTIALS.size
    message, attached, _, _ = channel.recvmsg(65536, socket.CMSG_SPACE(size))
    senders = [CREDENTIALS.unpack(data[:size])[0] for _, _, data in attached]
    return message.decode(errors="replace").splitlines() if senders == [pid] else []


def _insist_on_lock(config: Config, pid: int) -> None:
    if not has_lock(config, pid):
        file = pid_file(config.runtime_directory)
        raise SensorNodeError(f"{file}: names process {pid}, which is not this node; remove it")


def _insist_on_this_configuration(config: Config, pid: int) -> None:
    """Refuse a supervisor that runs by another configuration, whose state directory is the same.

    It may be a link to this one.
    """
    report = report_of(config.runtime_directory, pid)
    if report and real(Path(report.config)) != real(config.file):
        raise SensorNodeError(
            f"{config.state_directory}: is in use by the appliance with pid {pid}, "
            f"which goes by {report.config}"
        )


def _open_pid(pid: int) -> int | None:
    """A descriptor of the process; None if it has ended.

    Unlike a pid, it never means another process.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _kill_all(config: Config, supervisor: int) -> None:
    report = read_report(config.runtime_directory)
    signal.pidfd_send_signal(supervisor, signal.SIGKILL)
    for child in report.processes if report else []:
        if child.pid and is_appliance(child.owner) and has_lock(config, child.pid):
            os.kill(child.pid, signal.SIGKILL)
    # The supervisor would have removed it. A pid file that stays says: it died by itself.
    pid_file(config.runtime_directory).unlink(missing_ok=True)
