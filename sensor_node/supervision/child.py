"""One child of the supervisor: starting it, watching it, and when to start it again."""

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from sensor_node.config.loader import Config
from sensor_node.core.schedule import restart_delay
from sensor_node.processes import owner
from sensor_node.supervision.roles import Role
from sensor_node.supervision.slots import Slot
from sensor_node.supervision.states import ChildReport, ChildState
from sensor_node.supervision.worker import STOP_SIGNALS, ChildSpec, work
from sensor_node.system.log import say_event

# Fork is safe: the supervisor has one thread and never a connection. See docs/adr/0001.
FORK = multiprocessing.get_context("fork")
# A child that lived this long is started again at once.
SOUND_LIFE_SECONDS = 10.0
MOST_PENDING_EVENTS = 20
# Opening the database usually takes some milliseconds.
LONG_WAIT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a child ended."""

    exit_code: int  # as multiprocessing gives it: -9 means killed by SIGKILL
    was_ready: bool
    message: str  # the last one that it left in its slot

    @property
    def how(self) -> str:
        if self.exit_code >= 0:
            return f"exited with status {self.exit_code}"
        number = -self.exit_code
        known = number in set(signal.Signals)  # not every real-time signal has a name
        return f"was killed by {signal.Signals(number).name if known else f'signal {number}'}"


class Child:
    """One place in the appliance, filled by one process after the other.

    `name` is sender-2, say. `restarts` counts deaths. Monotonic seconds: `kill_at`, when a process
    that was asked to stop is killed; `restart_at`, when the next one may start; `aborted_at`, when
    it was sent SIGABRT. `killed`: it was sent SIGKILL.
    """

    def __init__(self, name: str, role: Role, slot: Slot) -> None:
        self.name = name
        self.role = role
        self.slot = slot
        self.state = ChildState.STOPPED
        self.restarts = 0
        self.kill_at: float | None = None
        self.restart_at = 0.0
        self.aborted_at: float | None = None
        self.killed = False
        self._process: BaseProcess | None = None
        self._short_lives = 0
        self._died = False
        # Wall seconds of the last death and of the one before; 0 if there was none.
        self._deaths = (0.0, 0.0)
        self._started = 0.0
        self._since = 0.0
        self._owner = ""
        self._pending_events: list[tuple[str, str]] = []

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def sentinel(self) -> int | None:
        return self._process.sentinel if self._process else None

    def start(
        self, config: Config, run_started: float, inherited: list[int], *, unclean: bool = False
    ) -> None:
        """Fork a process. Signals stay blocked until the child has installed its own handlers.

        `run_started`: monotonic seconds. `inherited`: descriptors that the child must give up.
        `unclean`: the last run left the database as it was when it died.

        Raises OSError if the system has no room for one more process; then nothing has changed.
        """
        self.slot.reset()
        spec = ChildSpec(
            role=self.role,
            config=config,
            slot=self.slot,
            supervisor=os.getpid(),
            inherited=tuple(inherited),
            pending_events=tuple(self._pending_events),
            run_started=run_started,
            unclean=unclean,
            after_death=self._died,
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process = FORK.Process(target=work, args=(spec,), name=self.name)
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._process = process
        self._pending_events.clear()
        self._died = False
        self._started, self._since = time.monotonic(), time.time()
        self.state, self.kill_at, self.aborted_at = ChildState.STARTING, None, None
        self.killed = False
        pid = self._process.pid
        self._owner = owner.owner_id_of(self.role.name, pid or 0)

    def look(self) -> bool:
        """Whether the child has become RUNNING since the last look."""
        if self.state is ChildState.STARTING and self.slot.heartbeat().ready:
            self.state, self._since = ChildState.RUNNING, time.time()
            return True
        return False

    def reap(self) -> ExitStatus | None:
        """How the process ended. Returned once for each process; None while it lives."""
        if self._process is None or self._process.exitcode is None:
            return None
        heartbeat = self.slot.heartbeat()
        exit_status = ExitStatus(self._process.exitcode, heartbeat.ready, heartbeat.message)
        self._process.join()
        self._process.close()
        self._process = None
        self._since = time.time()
        return exit_status

    def plan_restart(self, exit_status: ExitStatus, now: float) -> None:
        """After a death: at once after a sound life, else later and later, but never give up."""
        sound = now - self._started >= SOUND_LIFE_SECONDS
        self._short_lives = 0 if sound else self._short_lives + 1
        self.restart_at = now + restart_delay(self._short_lives)
        self.restarts += 1
        self._died = True
        self._deaths = (time.time(), self._deaths[0])
        self.state = ChildState.BACKOFF
        self.remember("process died", f"{self.name} {exit_status.how}")

    def plan_another_start(self, now: float) -> None:
        """After a start that failed: later and later. It does not count as a death."""
        self._short_lives += 1
        self.restart_at = now + restart_delay(self._short_lives)
        self.state = ChildState.BACKOFF

    def plan_replacement(self, now: float) -> None:
        """After it was asked to end: the next one, with the new configuration, starts at once."""
        self.restart_at = now
        self.state = ChildState.BACKOFF

    def ask_to_stop(self, now: float, timeout: float) -> None:
        """Send SIGTERM; after `timeout` seconds the process is to be killed."""
        self.state = ChildState.STOPPING
        self.kill_at = now + timeout
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.exitcode is None and self._process.pid:
            os.kill(self._process.pid, number)

    def waits_for_database(self, now: float) -> bool:
        """Whether it has waited long for the write lock while it opens the database.

        Its tables are being migrated, or another program has the lock.
        """
        since = self.slot.heartbeat().waiting_since
        return (
            self.state is ChildState.STARTING
            and since is not None
            and now - since >= LONG_WAIT_SECONDS
        )

    def is_stopped(self) -> bool:
        return self.pid is not None and owner.is_stopped(self.pid)

    def waits_for_disk(self) -> bool:
        return self.pid is not None and owner.waits_for_disk(self.pid)

    def remember(self, kind: str, detail: str) -> None:
        """Say an event, and give it to the next process in this place for the database."""
        say_event(logging.WARNING, kind, detail)
        if len(self._pending_events) < MOST_PENDING_EVENTS:
            self._pending_events.append((kind, detail))

    def report(self) -> ChildReport:
        heartbeat = self.slot.heartbeat()
        return ChildReport(
            name=self.name,
            role=self.role.name,
            pid=self.pid,
            owner=self._owner,
            state=self.state.value,
            since=self._since,
            restarts=self.restarts,
            died_before=self._deaths[1],
            trouble=heartbeat.trouble if self.pid else "",
            trouble_since=heartbeat.trouble_since if self.pid else 0.0,
        )


def reap_strangers(children: Iterable[Child]) -> None:
    """Reap orphans: in a container the first process (pid 1) inherits them."""
    if os.getpid() != 1:
        return
    own = {child.pid for child in children}
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in own:
                return  # reap() sees to it; the next pass goes on with the others
            os.waitpid(ended.si_pid, 0)
