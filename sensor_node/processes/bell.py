"""Wakes the other processes after a commit, so that they need not keep asking the database."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

from sensor_node.processes.service import Wake

Ring = Callable[[], None]


class Bell:
    """A file of one byte: whoever reads it rings, and the kernel signals all who listen.

    A ring says no more than "look now" and may be lost; looking once a second finds the same. Make
    it after the fork. Raises OSError where there can be no such file.
    """

    def __init__(self, runtime_directory: Path) -> None:
        # The kernel watches directories: in one of its own nothing else happens.
        place = runtime_directory / "bell"
        place.mkdir(0o750, exist_ok=True)
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with contextlib.ExitStack() as opened:
            self._directory = os.open(place, flags | os.O_DIRECTORY)
            opened.callback(os.close, self._directory)
            self._file = os.open(
                "bell", flags | os.O_RDWR | os.O_CREAT, 0o640, dir_fd=self._directory
            )
            opened.callback(os.close, self._file)
            # Reading nothing rings nothing.
            os.pwrite(self._file, b"\n", 0)
            self._opened = opened.pop_all()

    def ring(self) -> None:
        """A commit has made something to do for others."""
        with contextlib.suppress(OSError):
            os.pread(self._file, 1, 0)

    def listen(self, wake: Wake) -> None:
        """From now on each ring wakes this process; OSError: this kernel cannot tell."""
        signal.signal(signal.SIGIO, lambda number, frame: wake.put(0))
        fcntl.fcntl(self._directory, fcntl.F_NOTIFY, fcntl.DN_ACCESS | fcntl.DN_MULTISHOT)

    def close(self) -> None:
        """Not after the interpreter has put the signal's default back: that ends the process."""
        self._opened.close()
