"""What a forked child does first: cut its ties to the supervisor, then run its role's service."""

import contextlib
import errno
import gc
import os
import signal
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sensor_node.config.loader import Config
from sensor_node.core.clock import SystemClock
from sensor_node.core.errors import ConfigError, StorageUnavailable, is_out_of_memory
from sensor_node.processes.bell import Bell, NoBell
from sensor_node.processes.context import ServiceContext
from sensor_node.processes.service import (
    LONGEST_WAIT_SECONDS,
    POLL_SECONDS,
    Wake,
    prepare_process,
    run_service,
)
from sensor_node.supervision.logfile import log_file
from sensor_node.supervision.pidfile import has_lock
from sensor_node.supervision.program import keep_program
from sensor_node.supervision.roles import ROLES, Role
from sensor_node.supervision.slots import Slot
from sensor_node.system import log

if TYPE_CHECKING:
    from sensor_node.storage.repository import SensorDataSQLRepository

EXIT_CONFIG = 78
# No file and no memory is left.
REFUSED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """All that a child is told: how it came to be and what it is to do.

    `inherited`: descriptors of the supervisor's that are none of its business. `news`: what the
    supervisor, which never opens the database, wants to be remembered there (kind, detail).
    `unclean`: the last run left the database as it was when it died, and nobody has opened it yet.
    `after_death`: of the one before it in its place, which may have died of damage.
    """

    role: Role
    config: Config
    slot: Slot
    supervisor: int
    inherited: tuple[int, ...]
    pending_events: tuple[tuple[str, str], ...]
    run_started: float
    unclean: bool
    after_death: bool


def preload() -> None:
    """Before the first fork: the children share the memory of what all of them import.

    The HTTP library is not among it: capture never loads it, and others only when they send. What
    speaks HTTP is kept as it is now, so that an upgrade never leaves a child with half a program.
    """
    for role in ROLES.values():
        role.load_service()
    keep_program()
    # A collection in a child would write to every object, and so copy it.
    gc.freeze()


def open_descriptors(but: int) -> list[int]:
    """What a child must not share: all but the standard ones and that one."""
    present = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return [fd for fd in present if fd not in (0, 1, 2, but) and _is_open(fd)]


def _is_open(fd: int) -> bool:
    """The descriptor that iterdir() itself used is closed by now."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def work(spec: ChildSpec) -> None:
    """The child's whole life. Exits 78 if a person must mend the configuration."""
    wake = Wake()
    prepare_process(wake)
    _cut_ties(spec.inherited)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    log.configure(spec.config.log.level, log_file(spec.config))
    _set_oom_score(spec.role.oom_score)
    try:
        with contextlib.ExitStack() as leaving:
            bell, longest_wait = _bell(spec, wake, leaving)
            open_service = partial(spec.role.open_service, _context(spec, wake, bell))
            run_service(open_service, SystemClock(), spec.slot, wake, spec.supervisor, longest_wait)
    except ConfigError as error:
        # The supervisor says it, once for all children that find the same.
        spec.slot.say(str(error))
        sys.exit(EXIT_CONFIG)
    except Exception as error:
        if is_out_of_memory(error):
            # What the stack still holds is needed for the line.
            error.__traceback__ = error.__context__ = None
            error = MemoryError()
        # A stack says nothing about what the system refuses to whoever asks.
        refused = isinstance(error, MemoryError) or getattr(error, "errno", 0) in REFUSED
        log.LOGGER.error("crashed role=%s %r", spec.role.name, error, exc_info=not refused)
        sys.exit(1)


def _context(spec: ChildSpec, wake: Wake, bell: Bell | NoBell) -> ServiceContext:
    pending_events = list(spec.pending_events)

    def open_repository(*, power_safe: bool) -> "SensorDataSQLRepository":
        return _open_repository(spec, pending_events, power_safe=power_safe)

    return ServiceContext(
        role=spec.role.name,
        config=spec.config,
        clock=SystemClock(),
        open_repository=open_repository,
        bell=bell,
        wake=lambda: wake.put(0),
        is_final=spec.slot.is_final,
        supervisor=spec.supervisor,
        run_started=spec.run_started,
    )


def _bell(
    spec: ChildSpec, wake: Wake, leaving: contextlib.ExitStack
) -> tuple[Bell | NoBell, float]:
    """How this process tells the others what it did, and how long it may wait to be told."""
    listens = spec.role.uses_network
    try:
        bell = leaving.enter_context(contextlib.closing(Bell(spec.config.runtime_directory)))
        if listens:
            bell.listen(wake, commits=spec.role.hears_commits)
    except OSError as error:
        log.LOGGER.info("no_bell %s: asking the database every %g s", error, POLL_SECONDS)
        return NoBell(), POLL_SECONDS if listens else LONGEST_WAIT_SECONDS
    return bell, LONGEST_WAIT_SECONDS


def _open_repository(
    spec: ChildSpec, pending_events: list[tuple[str, str]], *, power_safe: bool
) -> "SensorDataSQLRepository":
    """Write the news down there, each once however often opening fails."""
    from sensor_node.storage.engine.filesystem import resolved
    from sensor_node.storage.repository import SensorDataSQLRepository

    path = resolved(spec.config.storage.path)
    if not has_lock(spec.config, os.getpid()):
        # What is there now is perhaps another appliance's.
        raise StorageUnavailable("replaced", f"{path}: the appliance's lock file was taken away")
    repository = SensorDataSQLRepository(path, spec.slot, power_safe=power_safe, replaces=True)
    try:
        if spec.unclean or spec.after_death:
            repository.check_for_damage()
        spec.slot.checked()
        while pending_events:
            repository.record_event(SystemClock().now().wall, *pending_events[0])
            del pending_events[0]
    except BaseException:
        repository.close()
        raise
    return repository


def _cut_ties(inherited: tuple[int, ...]) -> None:
    """Point the supervisor's descriptors at nothing.

    They are replaced, not closed: should an object of the supervisor's close its number later, it
    must not be the database's by then.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in inherited:
        os.dup2(nothing, fd, inheritable=False)
    os.close(nothing)


def _set_oom_score(score: int) -> None:
    # Without CAP_SYS_RESOURCE a process may still raise its own score.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score))
