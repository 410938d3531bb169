"""Wakes the other processes after a commit, so that they need not keep asking the database."""

import contextlib
import fcntl
import os
import signal
from pathlib import Path

from sensor_node.processes.service import Wake


class Bell:
    """A file of one byte: when a process reads or writes it, the kernel signals those that listen.

    A read tells of a commit, and wears no flash. A write tells of a failed batch or of a probe's
    end, so that a process can hear these without the commits.

    A ring says no more than "look now", and may be lost: a look once a second finds the same. Make
    it after the fork. Raises OSError if there can be no such file.
    """

    def __init__(self, runtime_directory: Path) -> None:
        # The kernel watches whole directories, so the file has one for itself.
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
            # To read from an empty file would not ring.
            os.pwrite(self._file, b"\n", 0)
            self._opened = opened.pop_all()

    def tell_commit(self) -> None:
        """There are more readings to send."""
        with contextlib.suppress(OSError):
            os.pread(self._file, 1, 0)

    def tell_outcome(self) -> None:
        """Something is to be retried, or the sink's state may be another."""
        with contextlib.suppress(OSError):
            os.pwrite(self._file, b"\n", 0)

    def listen(self, wake: Wake, *, commits: bool) -> None:
        """Let outcomes wake this process from now on, and `commits` if wanted.

        Raises OSError if this kernel cannot watch directories.
        """
        signal.signal(signal.SIGIO, lambda number, frame: wake.put(0))
        self.listen_for_commits(commits)

    def listen_for_commits(self, wanted: bool) -> None:
        """Say whether commits wake it too. Then look again: a ring of just now may be lost."""
        events = fcntl.DN_MODIFY | (fcntl.DN_ACCESS if wanted else 0)
        # Clear it first: the kernel would add these events to the present ones.
        fcntl.fcntl(self._directory, fcntl.F_NOTIFY, 0)
        fcntl.fcntl(self._directory, fcntl.F_NOTIFY, events | fcntl.DN_MULTISHOT)

    def close(self) -> None:
        """Stop listening.

        Call it before the interpreter ends, which puts back SIGIO's default: that kills a process.
        """
        self._opened.close()


class NoBell:
    """In place of a bell that cannot be: processes then ask the database more often instead."""

    def tell_commit(self) -> None:
        """Nobody hears it."""

    def tell_outcome(self) -> None:
        """Nobody hears it."""

    def listen_for_commits(self, wanted: bool) -> None:
        """There are none to be heard."""
