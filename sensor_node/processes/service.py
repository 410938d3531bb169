"""What a worker process is: a service that takes steps, and the loop that lets it."""

import contextlib
import faulthandler
import os
import queue
import resource
import signal
from collections.abc import Callable
from typing import Protocol

from sensor_node.core.clock import Clock, Moment
from sensor_node.core.errors import StorageUnavailable
from sensor_node.system.log import LOGGER, Throttle

# However long a service wants to wait: so often it shows that it lives, looks for its parent, and
# for what others have committed, should no bell have told it.
LONGEST_WAIT_SECONDS = 1.0
# Where there is no bell: asking the database costs 100 µs, and this bounds a reading's latency.
POLL_SECONDS = 0.1
# The database cannot be used: look again this soon.
STORAGE_RETRY_SECONDS = 1.0

Wake = queue.SimpleQueue[int]


class Service(Protocol):
    """One bounded piece of work at a time, so that tests run it without processes or sleep."""

    def step(self, now: Moment) -> float:
        """Work, then return the seconds until the next step is wanted."""

    def finish(self, now: Moment) -> None:
        """The last step: bring what is in hand to an end, and close what is open."""


class Pulse(Protocol):
    """Where a worker shows its supervisor that it lives."""

    def beat(self) -> None:
        """The loop has turned."""

    def ready(self) -> None:
        """The service is open, or waits for its database: from now on it does its work."""

    def trouble(self, reason: str) -> None:
        """Why the database cannot be used; empty when it can."""


def run_service(
    open_service: Callable[[], Service],
    clock: Clock,
    pulse: Pulse,
    wake: Wake,
    parent: int,
    longest_wait: float = LONGEST_WAIT_SECONDS,
) -> None:
    """Step until SIGTERM, or until the supervisor `parent` is gone.

    A database that cannot be used now is no reason to die: the step is tried again.
    """
    throttle = Throttle()
    service: Service | None = None
    usable_at = 0.0
    while os.getppid() == parent:
        now = clock.now()
        pulse.beat()
        # Commits of others, which wake this one, do not make its own database usable.
        delay = usable_at - now.monotonic
        if delay <= 0:
            try:
                if service is None:
                    service = open_service()
                    # Not after the first step, which may last as long as a request.
                    pulse.ready()
                delay = service.step(now)
                pulse.trouble("")
            except StorageUnavailable as error:
                throttle.warning(now.monotonic, "storage_unavailable", error)
                pulse.trouble(error.reason)
                pulse.ready()
                delay = STORAGE_RETRY_SECONDS
                usable_at = now.monotonic + delay
        if _asked_to_stop(wake, min(delay, longest_wait)):
            break
    if service:
        _finish(service, clock.now())


def _finish(service: Service, now: Moment) -> None:
    try:
        service.finish(now)
    except StorageUnavailable as error:
        LOGGER.error("storage_unavailable %s", error)


def prepare_process(wake: Wake) -> None:
    """Signals only enqueue; a crash prints its stack and leaves no core with tokens in it."""
    signal.signal(signal.SIGTERM, lambda number, frame: wake.put(number))
    # Ctrl-C reaches the whole foreground group; the supervisor stops its children in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()


def _asked_to_stop(wake: Wake, seconds: float) -> bool:
    """Sleep so long, unless woken; a process sleeps nowhere else. Whether SIGTERM has come."""
    came = []
    with contextlib.suppress(queue.Empty):
        came.append(wake.get(timeout=seconds) if seconds > 0 else wake.get_nowait())
        while True:  # one step sees to all that has come meanwhile
            came.append(wake.get_nowait())
    return signal.SIGTERM in came
