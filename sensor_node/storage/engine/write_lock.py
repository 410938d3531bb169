"""The one lock that every writer of the database takes: two flocks, used as a turnstile.

A process that waits in flock() does not poll, and it gets its turn: a process that has just
released the lock must pass the turnstile again, behind those that wait there. The lock files are
empty. Each process opens them after the fork, as an inherited flock excludes nobody. Nobody deletes
them.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

from sensor_node.system.files import is_same_file

FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class LockWatch(Protocol):
    """Learns what this process does with the lock, so that a supervisor can end a hung holder."""

    def waiting(self) -> None: ...
    def holding(self) -> None: ...
    def released(self) -> None: ...


class Unwatched:
    """The watch of a command, which no supervisor looks after."""

    def waiting(self) -> None:
        """Nobody is told."""

    def holding(self) -> None:
        """Nobody is told."""

    def released(self) -> None:
        """Nobody is told."""


class WriteLock:
    """A context manager that holds the lock; not re-entrant, for one thread only.

    Raises OSError if a lock file cannot be opened.
    """

    def __init__(self, database: Path, watch: LockWatch) -> None:
        self._turnstile = _open(_turnstile_of(database), database)
        self._file = writer_file(database)
        try:
            self._writer = _open(self._file, database)
        except OSError:
            os.close(self._turnstile)
            raise
        self._watch = watch

    def __enter__(self) -> None:
        self._watch.waiting()
        fcntl.flock(self._turnstile, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._writer, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._turnstile, fcntl.LOCK_UN)
        self._watch.holding()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        fcntl.flock(self._writer, fcntl.LOCK_UN)
        self._watch.released()

    def is_in_place(self) -> bool:
        """Whether a process that opens the lock files now gets this lock, and not another."""
        return is_same_file(os.fstat(self._writer), self._file)

    def allow_long(self) -> None:
        """Call it while holding, before a long operation: the watch then sees no hung holder."""
        self._watch.waiting()

    def close(self) -> None:
        """A second call does nothing, as other files may have the descriptors' numbers by then."""
        for descriptor in (self._turnstile, self._writer):
            if descriptor >= 0:
                os.close(descriptor)
        self._turnstile = self._writer = -1


@contextlib.contextmanager
def at_once(database: Path) -> Iterator[bool]:
    """Take the lock if it is free, without waiting; whether this process has it now.

    It has not if the lock file is missing: this makes none.
    """
    try:
        writer = os.open(writer_file(database), FLAGS)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = True
    except BlockingIOError:
        is_ours = False
    try:
        yield is_ours
    finally:
        os.close(writer)


def was_made_for(database: Path) -> bool:
    """Whether this program has ever used this database's place: its lock files are there."""
    return _turnstile_of(database).exists()


def writer_file(database: Path) -> Path:
    """The lock file whose flock is the write lock."""
    return database.with_name(database.name + ".writer")


def _turnstile_of(database: Path) -> Path:
    return database.with_name(database.name + ".turnstile")


def _open(file: Path, database: Path) -> int:
    try:
        descriptor = os.open(file, FLAGS | os.O_CREAT | os.O_EXCL, 0o660)
    except FileExistsError:
        return os.open(file, FLAGS)
    if os.geteuid() == 0:
        # A command of root has made the file, and the service needs it, too. SQLite gives its files
        # to the database's owner likewise.
        owner = (database if database.exists() else database.parent).stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor
