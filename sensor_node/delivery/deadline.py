"""Holds a whole request to its deadline: another thread shuts its socket down.

The timeout of a socket starts again with each byte, so a sink that sends byte by byte could hold a
request for ever. These deadlines limit waits in the kernel, so they use the real clock.
"""

import contextlib
import errno
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

# The thread looks by itself so often. No deadline is nearer when it is set, unless [sink] timeout
# is shorter.
LOOK_SECONDS = 1.0


def start_thread(name: str, target: Callable[..., None], *arguments: Any) -> None:
    """Start a daemon thread, which ends with the process.

    Raises OSError (EAGAIN) if there may be no more threads.
    """
    try:
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error


class DeadlineGuard:
    """Watches one request at a time. It starts its thread at once: create it after any fork.

    Raises OSError if no thread can be started.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._deadline: float | None = None
        self._wakes_at: float | None = None  # None: the thread sleeps until it is notified
        self._expired = False
        self._watched: socket.socket | None = None
        self._closed = False
        start_thread("deadline", self._run)

    def arm(self, seconds: float) -> None:
        """Begin a request that must be over in so many seconds."""
        with self._condition:
            self._expired = False
            self._set(time.monotonic() + seconds)

    def shorten(self, seconds: float) -> None:
        """Let the request end in so many seconds, or by its deadline if that is sooner."""
        with self._condition:
            if self._deadline is not None:
                self._set(min(self._deadline, time.monotonic() + seconds))

    def watch(self, connected: socket.socket) -> None:
        """Shut this socket down at the deadline. Raises TimeoutError if that has passed.

        The guard keeps a duplicate: TLS detaches the original, and its number may be used again.
        """
        duplicate = socket.socket(fileno=os.dup(connected.fileno()))
        with self._condition:
            self._release()
            if not self._expired:
                self._watched = duplicate
                return
        duplicate.close()
        raise TimeoutError

    def left(self) -> float:
        """Seconds until the deadline. Raises TimeoutError if there are none."""
        with self._condition:
            left = 0.0 if self._deadline is None else self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    @property
    def expired(self) -> bool:
        """Whether the deadline has ended the present or last request."""
        with self._condition:
            return self._expired

    def disarm(self) -> bool:
        """End the request; returns whether the deadline had ended it already."""
        with self._condition:
            self._deadline = None
            self._release()
            return self._expired

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._closed = True
            self._release()
            self._condition.notify()

    def _set(self, deadline: float) -> None:
        self._deadline = deadline
        # Wake the thread only if it would look too late: that is not so for every request.
        if self._wakes_at is None or self._wakes_at > deadline:
            self._condition.notify()

    def _run(self) -> None:
        """Look about once a second while requests come: to be notified of each would cost more.

        After a whole turn without a request, sleep until one is armed.
        """
        was_idle = False
        with self._condition:
            while not self._closed:
                now = time.monotonic()
                if self._deadline is not None and self._deadline <= now:
                    self._expire()
                    continue
                if was_idle and self._deadline is None:
                    self._wakes_at = None
                    self._condition.wait()
                    was_idle = False
                    continue
                was_idle = self._deadline is None
                self._wakes_at = min(now + LOOK_SECONDS, self._deadline or math.inf)
                self._condition.wait(self._wakes_at - now)

    def _expire(self) -> None:
        self._expired, self._deadline = True, None
        if self._watched is not None:
            with contextlib.suppress(OSError):  # the sink may have closed it already
                self._watched.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        if self._watched is not None:
            self._watched.close()
            self._watched = None
