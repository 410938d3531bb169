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
# The system has no file or no memory left to give.
REFUSED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """All that a new child is told."""

    role: Role
    config: Config
    slot: Slot
    supervisor: int  # pid
    inherited: tuple[int, ...]  # the supervisor's descriptors, which the child must give up
    # (kind, detail): the child writes them to the database, which the supervisor never opens.
    pending_events: tuple[tuple[str, str], ...]
    run_started: float  # when the supervisor started, in monotonic seconds
    unclean: bool  # the last run left the database as it was when it died; nobody has opened it
    after_death: bool  # the one before it in its place has died, perhaps of a damaged database


def preload() -> None:
    """Import the services before the first fork, so that all children share their memory.

    The HTTP library is left out: capture never loads it, and the others only when they send. The
    modules that import it are kept in memory as they are now. So a child never mixes modules of two
    versions after an upgrade.
    """
    for role in ROLES.values():
        role.load_service()
    keep_program()
    # Otherwise a garbage collection in a child would write to every object, and so copy its page.
    gc.freeze()


def open_descriptors(but: int) -> list[int]:
    """The descriptors that a child must not share: all but 0, 1, 2 and `but`."""
    present = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return [fd for fd in present if fd not in (0, 1, 2, but) and _is_open(fd)]


def _is_open(fd: int) -> bool:
    """False for the descriptor that iterdir() itself used: it is closed by now."""
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
        # The supervisor logs it: once, although each child may find the same error.
        spec.slot.leave_message(str(error))
        sys.exit(EXIT_CONFIG)
    except Exception as error:
        if is_out_of_memory(error):
            # Free what the stack still holds: the log line needs memory.
            error.__traceback__ = error.__context__ = None
            error = MemoryError()
        # If the system refuses to give more, the place where it did so explains nothing.
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
    """The bell, and the longest time in seconds that this process may sleep.

    Without a bell nothing wakes a network process, so it asks the database more often.
    """
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
    """Open the database and write the pending events: each once, however often opening fails.

    Raises StorageUnavailable.
    """
    from sensor_node.storage.engine.filesystem import resolved
    from sensor_node.storage.repository import SensorDataSQLRepository

    path = resolved(spec.config.storage.path)
    if not has_lock(spec.config, os.getpid()):
        # The database that is there now may be another appliance's.
        raise StorageUnavailable("replaced", f"{path}: the appliance's lock file was taken away")
    repository = SensorDataSQLRepository(path, spec.slot, power_safe=power_safe, replaces=True)
    try:
        if spec.unclean or spec.after_death:
            repository.check_for_damage()
        spec.slot.checked()
        while pending_events:
            now = SystemClock().now().wall
            repository.record_event(now, *pending_events[0], is_said=True)
            del pending_events[0]
    except BaseException:
        repository.close()
        raise
    return repository


def _cut_ties(inherited: tuple[int, ...]) -> None:
    """Point the supervisor's descriptors at /dev/null.

    They are not closed: then the database might get one of their numbers, and an object that the
    child has inherited might close that number later.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in inherited:
        os.dup2(null, fd, inheritable=False)
    os.close(null)


def _set_oom_score(score: int) -> None:
    # Without CAP_SYS_RESOURCE a process may still raise its own score.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score))
