"""A worker process: a service that takes steps, and the loop that calls them."""

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

# A process sleeps no longer than this, however long its service wants to wait. Then it shows that
# it lives, checks its parent, and looks for commits of which no bell has told it.
LONGEST_WAIT_SECONDS = 1.0
# The same without a bell. It bounds a reading's latency; to ask the database costs 100 µs.
POLL_SECONDS = 0.1
# The database cannot be used: look again this soon.
STORAGE_RETRY_SECONDS = 1.0

Wake = queue.SimpleQueue[int]


class Service(Protocol):
    """One bounded piece of work at a time, so that tests run it without processes or sleep."""

    def step(self, now: Moment) -> float:
        """Work, then return the seconds until the next step is wanted."""

    def finish(self, now: Moment) -> None:
        """The last step: end the work in hand, and close what is open."""


class Pulse(Protocol):
    """Where a worker shows its supervisor that it lives."""

    def beat(self) -> None:
        """A pass of the loop begins."""

    def ready(self) -> None:
        """The service is open, or waits for its database: the start is over."""

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
    """Step until SIGTERM, or until the supervisor, whose pid is `parent`, is gone.

    If the database cannot be used now, the process does not die: it tries the step again later.
    `longest_wait`: the longest sleep in seconds.
    """
    throttle = Throttle()
    service: Service | None = None
    usable_at = 0.0
    while os.getppid() == parent:
        now = clock.now()
        pulse.beat()
        # A ring wakes this process early, but does not make its database usable: wait on.
        delay = usable_at - now.monotonic
        if delay <= 0:
            try:
                if service is None:
                    service = open_service()
                    # Before the first step, which may last as long as a request.
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
    """Sleep so long, unless woken; a process sleeps nowhere else. Returns whether SIGTERM came."""
    numbers = []
    with contextlib.suppress(queue.Empty):
        numbers.append(wake.get(timeout=seconds) if seconds > 0 else wake.get_nowait())
        while True:  # empty the queue: one step sees to all that has come meanwhile
            numbers.append(wake.get_nowait())
    return signal.SIGTERM in numbers
