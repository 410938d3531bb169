"""Holds a whole request to its deadline, by shutting its socket down from another thread.

The timeouts of a socket start anew with each byte, so a sink that drips could hold a request for
ever. These deadlines are about what the kernel does and therefore in real time.
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

# No deadline is set that is nearer, but for timeouts that are shorter.
LOOK_SECONDS = 1.0


def start_thread(name: str, target: Callable[..., None], *arguments: Any) -> None:
    """One that dies with the process. Raises OSError (EAGAIN) where there may be no more."""
    try:
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error


class DeadlineGuard:
    """Watches one request at a time. Its thread begins with it: create it after any fork.

    Raises OSError if there can be none.
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
        """A request begins that must be over in so many seconds."""
        with self._condition:
            self._expired = False
            self._set(time.monotonic() + seconds)

    def hurry(self, seconds: float) -> None:
        """The rest of the request must be over in so many seconds, or by its deadline."""
        with self._condition:
            if self._deadline is not None:
                self._set(min(self._deadline, time.monotonic() + seconds))

    def watch(self, connected: socket.socket) -> None:
        """Shut this socket down at the deadline. Raises TimeoutError if that has passed.

        A duplicate is kept: TLS takes the original apart, and its number may be given away.
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
        """Whether the deadline cut the request short."""
        with self._condition:
            return self._expired

    def disarm(self) -> bool:
        """The request is over; returns whether it was cut short."""
        with self._condition:
            self._deadline = None
            self._release()
            return self._expired

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._release()
            self._condition.notify()

    def _set(self, deadline: float) -> None:
        self._deadline = deadline
        # The thread is woken only if it would come too late: not for every request.
        if self._wakes_at is None or self._wakes_at > deadline:
            self._condition.notify()

    def _run(self) -> None:
        """Wakes by itself for a while after each request: to notify costs more than that."""
        calm = False
        with self._condition:
            while not self._closed:
                now = time.monotonic()
                if self._deadline is not None and self._deadline <= now:
                    self._expire()
                    continue
                if calm and self._deadline is None:
                    self._wakes_at = None
                    self._condition.wait()
                    calm = False
                    continue
                calm = self._deadline is None
                self._wakes_at = min(now + LOOK_SECONDS, self._deadline or math.inf)
                self._condition.wait(self._wakes_at - now)

    def _expire(self) -> None:
        self._expired, self._deadline = True, None
        if self._watched is not None:
            with contextlib.suppress(OSError):  # the sink may have closed it by itself
                self._watched.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        if self._watched is not None:
            self._watched.close()
            self._watched = None
