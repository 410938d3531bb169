"""The supervisor: starts children and starts them again, ends those that hang, stops in order."""

import os
import queue
import signal
import socket
import time
from multiprocessing import connection
from pathlib import Path
from types import FrameType

from sensor_node import __version__
from sensor_node.config.loader import Config, load_config
from sensor_node.core.errors import ConfigError
from sensor_node.supervision import hangs, logfile, roles
from sensor_node.supervision.child import Child, ExitStatus, reap_strangers
from sensor_node.supervision.lock_keeper import LockKeeper, LockState
from sensor_node.supervision.slots import make_slots
from sensor_node.supervision.states import ChildState, Report, write_report
from sensor_node.supervision.systemd import Notifier
from sensor_node.supervision.worker import EXIT_CONFIG, STOP_SIGNALS, open_descriptors, preload
from sensor_node.system import log
from sensor_node.system.files import real
from sensor_node.system.log import LOGGER

LOOP_SECONDS = 0.5
STARTING_LOOP_SECONDS = 0.02
# If a pass of the loop took longer, this process was stopped or the machine was suspended.
OVERSLEPT_SECONDS = 3.0
# On top of the roles' own seconds: what asking and killing all processes takes.
STOP_MARGIN_SECONDS = 5.0
WAITS_FOR_DATABASE = "waiting for the database: its tables are made anew, or somebody writes to it"


class Supervisor:
    """Holds the appliance's locks and nothing else: no connection to the database, no network."""

    def __init__(self, config: Config, lock_keeper: LockKeeper, notifier: Notifier) -> None:
        self._config = config
        self._lock_keeper = lock_keeper
        self._notifier = notifier
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._slots = make_slots(roles.most_children())
        self._children = [
            Child(name, role, self._slots.pop()) for name, role in roles.children(config).items()
        ]
        self._run_started, self._since = time.monotonic(), time.time()
        self._last_loop = self._run_started
        self._unclean = _was_left_open(real(config.storage.path))
        self._ready = False
        self._all_well = True
        self._reloading = False
        self._reloads = 0
        self._stopping = False
        self._problem = ""
        self._reported: Report | None = None

    @property
    def _capture(self) -> Child:
        return next(child for child in self._children if child.role.captures)

    def run(self) -> int:
        """Run until stopped. Returns the exit status.

        0 after SIGTERM or SIGINT, 1 if another appliance has taken the place, 78 for an error that
        only a person can mend.
        """
        self._take_signals()
        preload()
        status = None
        while status is None:
            now = time.monotonic()
            self._forgive_if_overslept(now)
            status = self._reap(now)
            if status is None:
                status = self._obey_signals(now)
            if status is None:
                status = self._keep_locks(now)
            if status is None:
                self._start_due(now)
                self._end_hangs(now)
                self._announce(now)
                log.follow()
                logfile.rotate(self._config)
                self._wait(now)
        self._stop_all()
        return status

    def _take_signals(self) -> None:
        def enqueue(number: int, frame: FrameType | None) -> None:
            self._signals.put(number)

        for end in (self._wake_reader, self._wake_writer):
            end.setblocking(False)
        # A signal does not end connection.wait(); the byte that it writes to this socket does.
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, enqueue)

    def _wait(self, now: float) -> None:
        """Sleep until a child ends, a signal comes, or the next start or pass is due."""
        starting = self._unclean or any(
            child.state is ChildState.STARTING for child in self._children
        )
        seconds = STARTING_LOOP_SECONDS if starting else LOOP_SECONDS
        for child in self._children:
            if child.state is ChildState.BACKOFF:
                seconds = min(seconds, max(0.0, child.restart_at - now))
        sentinels = [child.sentinel for child in self._children if child.sentinel is not None]
        connection.wait([*sentinels, self._wake_reader], seconds)
        try:
            self._wake_reader.recv(4096)
        except BlockingIOError:
            return

    def _forgive_if_overslept(self, now: float) -> None:
        """The children may have slept as well: measure their times from now."""
        if now - self._last_loop > OVERSLEPT_SECONDS:
            for child in self._children:
                child.slot.forgive()
        self._last_loop = now

    def _reap(self, now: float) -> int | None:
        """Plan what follows each child that has ended. Returns 78 if the appliance must end."""
        for child in list(self._children):
            exit_status = child.reap()
            if exit_status is None:
                continue
            if child.state is ChildState.STOPPING:
                child.plan_replacement(now)
                continue
            if _is_hopeless(child, exit_status):
                LOGGER.error("configuration %s", exit_status.message)
                self._notifier.send(f"STATUS={exit_status.message}", f"ERRNO={EXIT_CONFIG}")
                return EXIT_CONFIG
            child.plan_restart(exit_status, now)
        reap_strangers(self._children)
        return None

    def _obey_signals(self, now: float) -> int | None:
        """Returns 0 if asked to stop."""
        while not self._signals.empty():
            if self._signals.get() == signal.SIGHUP:
                self._reload(now)
            else:
                return 0
        return None

    def _reload(self, now: float) -> None:
        """Take the new configuration and replace every child; a bad one changes nothing."""
        self._notifier.reloading()
        self._reloading = True
        self._reloads += 1
        self._problem = ""
        try:
            config = load_config(self._config.file)
            if config.storage.path != self._config.storage.path:
                raise ConfigError("[storage] path cannot change but by sensor-node-ctl restart")
        except ConfigError as error:
            self._problem = str(error)
            for line in error.lines:
                LOGGER.error("reload_refused %s", line)
            return
        self._config = config
        LOGGER.setLevel(config.log.level.upper())
        LOGGER.info("reloaded config=%s", config.file)
        known = {child.name: child for child in self._children}
        for name, role in roles.children(config).items():
            if name not in known:
                self._children.append(Child(name, role, self._slots.pop()))
        self._replace_children(now)

    def _replace_children(self, now: float) -> None:
        for child in self._children:
            if child.pid is not None:
                child.ask_to_stop(now, child.role.seconds_to_stop(self._config))

    def _keep_locks(self, now: float) -> int | None:
        """Put back files that were deleted. Returns 1 if another appliance has taken the place."""
        state = self._lock_keeper.keep(self._config)
        if state is LockState.LOCK_MADE_ANEW:
            self._capture.remember("lock gone", "its file was deleted while the node ran")
            self._replace_children(now)
        if state is not LockState.AS_IT_WAS:
            self._reported = None  # the report was probably deleted too: write it again
        return 1 if state is LockState.TAKEN else None

    def _start_due(self, now: float) -> None:
        wanted = roles.children(self._config)
        for child in list(self._children):
            if child.pid is not None or now < child.restart_at or self._is_held_back(child):
                continue
            if child.name in wanted:
                self._start(child, now)
            else:
                self._children.remove(child)
                self._slots.append(child.slot)

    def _is_held_back(self, child: Child) -> bool:
        """Whether a child must not start yet.

        After an unclean stop the capturing process first opens the database alone and checks it for
        damage. Once it has done so, or has failed to, the others start.
        """
        if child.role.captures:
            return False
        heartbeat = self._capture.slot.heartbeat()
        if heartbeat.checked or heartbeat.trouble or self._capture.restarts:
            self._unclean = False
        return self._unclean

    def _start(self, child: Child, now: float) -> None:
        try:
            inherited = open_descriptors(but=self._lock_keeper.lock_fd)
            child.start(self._config, self._run_started, inherited, unclean=self._unclean)
            LOGGER.info("process_started name=%s pid=%s", child.name, child.pid)
        except OSError as error:
            # No memory or no process number is free: the others go on, this one is started later.
            LOGGER.error("process_not_started name=%s %s", child.name, error)
            child.plan_another_start(now)

    def _end_hangs(self, now: float) -> None:
        """Kill children that do not move. SIGABRT first makes a child print its stack."""
        self._all_well = True
        for child in self._children:
            if child.pid is None:
                continue
            if child.kill_at is not None and now >= child.kill_at:
                self._kill(child, "did not stop in time")
                continue
            limit = hangs.step_limit(child.role, self._config.sink.timeout)
            liveness = hangs.judge(child.slot.heartbeat(), now, limit, child)
            self._all_well &= liveness is hangs.Liveness.WELL
            if liveness in (hangs.Liveness.HOLDS_LOCK, hangs.Liveness.BLOCKS_LOCK):
                self._kill(child, liveness.value)
            elif liveness is hangs.Liveness.HANGS and child.aborted_at is None:
                LOGGER.error("process_aborted name=%s it %s", child.name, liveness.value)
                child.aborted_at = now
                child.signal(signal.SIGABRT)
            elif child.aborted_at is not None and now - child.aborted_at > hangs.ABORT_SECONDS:
                self._kill(child, "does not end")

    def _kill(self, child: Child, reason: str) -> None:
        """Send SIGKILL once. The process may take a while to end if the kernel keeps it."""
        if not child.killed:
            LOGGER.error("process_killed name=%s it %s", child.name, reason)
            child.killed = True
            child.signal(signal.SIGKILL)

    def _announce(self, now: float) -> None:
        """Tell the service manager and `status` what has changed."""
        for child in self._children:
            child.look()
        running = all(child.state is ChildState.RUNNING for child in self._children)
        became_ready = running and (not self._ready or self._reloading)
        if became_ready:
            LOGGER.info("ready processes=%d", len(self._children))
            self._ready, self._reloading = True, False
        if not self._ready and any(child.waits_for_database(now) for child in self._children):
            self._notifier.ask_for_time(now, WAITS_FOR_DATABASE)
        if self._all_well:
            self._notifier.feed_watchdog(now)
        report = self._report()
        # If the place is no longer ours, another appliance's report may be there.
        is_due = report != self._reported and self._lock_keeper.is_in_place
        if is_due and write_report(self._config, report):
            self._reported = report
        # Last: whoever hears it may read the report at once.
        if became_ready:
            self._notifier.send("READY=1", f"MAINPID={os.getpid()}", "STATUS=running")

    def _report(self) -> Report:
        return Report(
            pid=os.getpid(),
            version=__version__,
            config=str(self._config.file),
            node=self._config.node_id,
            since=self._since,
            ready=self._ready and not self._reloading,
            reloads=self._reloads,
            stopping=self._stopping,
            problem=self._problem,
            processes=[child.report() for child in self._children],
            settings=list(self._config.effective),
        )

    def _stop_all(self) -> None:
        """Stop one group of roles after the other.

        The last process notes the stop in the database. If capture did not end well, the stop is
        not orderly, and nobody is told to note it.
        """
        groups = roles.stop_groups()
        seconds = STOP_MARGIN_SECONDS + sum(
            max(role.seconds_to_stop(self._config) for role in group) for group in groups
        )
        self._stopping = True
        self._notifier.send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")
        LOGGER.info("stopping")
        in_order = True
        for group in groups:
            stopping = [child for child in self._children if child.role in group and child.pid]
            for child in stopping:
                if in_order:
                    child.slot.make_final()
                child.ask_to_stop(time.monotonic(), child.role.seconds_to_stop(self._config))
            in_order &= self._await_end(stopping)

    def _await_end(self, stopping: list[Child]) -> bool:
        """Wait for these processes. False if a capturing one did not end well.

        What a killed one had in memory is lost.
        """
        in_order = True
        while any(child.pid is not None for child in stopping):
            now = time.monotonic()
            self._end_hangs(now)
            self._announce(now)
            self._wait(now)
            for child in self._children:
                if exit_status := child.reap():
                    child.state = ChildState.STOPPED
                    in_order &= exit_status.exit_code == 0 or not child.role.captures
        return in_order


def _was_left_open(database: Path) -> bool:
    """Whether the last run did not stop in good order; known by stat() alone.

    An empty WAL with its -shm file does not count: a reader may have left them.
    """
    wal, shm = (database.with_name(database.name + end) for end in ("-wal", "-shm"))
    return wal.stat().st_size > 0 if wal.exists() else shm.exists()


def _is_hopeless(child: Child, exit_status: ExitStatus) -> bool:
    """Whether a child ended with a configuration error that must end the appliance.

    It must if the child was not ready yet, or if nothing is captured without it. Later, another
    role's error (a token file, say) is treated as a death, and the role is started again.
    """
    return exit_status.exit_code == EXIT_CONFIG and (
        child.role.captures or not exit_status.was_ready
    )
