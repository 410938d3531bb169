"""Wakes the other processes after a commit, so that they need not keep asking the database."""

import contextlib
import fcntl
import os
import signal
from pathlib import Path

from sensor_node.processes.service import Wake


class Bell:
    """A file of one byte: the kernel signals who listens when somebody reads or writes it.

    Reading tells of a commit, and costs the flash nothing; writing, of what has failed and of a
    probe's end, so that these can be heard without the commits. A ring says no more than "look now"
    and may be lost; looking once a second finds the same. Make it after the fork. Raises OSError
    where there can be no such file.
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

    def tell_commit(self) -> None:
        """There are more readings to send."""
        with contextlib.suppress(OSError):
            os.pread(self._file, 1, 0)

    def tell_outcome(self) -> None:
        """Something is to be retried, or the sink's state may be another."""
        with contextlib.suppress(OSError):
            os.pwrite(self._file, b"\n", 0)

    def listen(self, wake: Wake, *, commits: bool) -> None:
        """From now on outcomes wake this process; OSError: this kernel cannot tell."""
        signal.signal(signal.SIGIO, lambda number, frame: wake.put(0))
        self.listen_for_commits(commits)

    def listen_for_commits(self, wanted: bool) -> None:
        """Whether commits wake it too. Look anew: what is told just now may be lost."""
        events = fcntl.DN_MODIFY | (fcntl.DN_ACCESS if wanted else 0)
        # The kernel would add to what it has.
        fcntl.fcntl(self._directory, fcntl.F_NOTIFY, 0)
        fcntl.fcntl(self._directory, fcntl.F_NOTIFY, events | fcntl.DN_MULTISHOT)

    def close(self) -> None:
        """Not after the interpreter has put the signal's default back: that ends the process."""
        self._opened.close()


class NoBell:
    """Where there can be none: who would have listened asks the database instead."""

    def tell_commit(self) -> None:
        """Nobody hears it."""

    def tell_outcome(self) -> None:
        """Nobody hears it."""

    def listen_for_commits(self, wanted: bool) -> None:
        """There are none to be heard."""
