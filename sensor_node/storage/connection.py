"""Opens the database for writing or for reading, and says in one line why it cannot."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sensor_node.errors import DatabaseUnusable, StorageUnavailable
from sensor_node.storage import filesystem
from sensor_node.storage.checkpoint import WAL_CHECKPOINT_BYTES
from sensor_node.storage.migrations import migrate, schema_version
from sensor_node.storage.write_lock import LockWatch, WriteLock

# Under the write lock nobody of ours is in the way; this is for a person's sqlite3 shell.
BUSY_TIMEOUT_MS = 250
# The WAL-reset bug: https://www.sqlite.org/wal.html#walresetbug. The write lock avoids it.
WAL_RESET_BUG = ((3, 7, 0), (3, 51, 2))
# See docs/adr/0005: a quarter of the flash wear at one reading a commit.
PAGE_SIZE = 1024
TRY_TO_WRITE = "UPDATE sink SET state = state WHERE 0"
# Error codes of https://www.sqlite.org/rescode.html, low byte, as reasons to try again later.
REASONS = {
    sqlite3.SQLITE_FULL: "disk full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_PERM: "no permission",
    sqlite3.SQLITE_IOERR: "I/O error",
    sqlite3.SQLITE_BUSY: "locked by another program",
    sqlite3.SQLITE_LOCKED: "locked by another program",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_CORRUPT: "damaged",
}
# The same for the lock files beside it.
LOCK_REASONS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk full",
    errno.EROFS: "read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EIO: "I/O error",
}
# What a reader gets where it cannot make a -shm file.
NO_SHM = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


# For those who only pass one on.
Connection = sqlite3.Connection


class Database:
    """A writing connection and the write lock, of one process and one thread.

    Make it after the fork. `full` gives each commit `synchronous=FULL`: it survives power loss.
    """

    def __init__(self, path: Path, watch: LockWatch, *, full: bool) -> None:
        text, refused = filesystem.complaint(path)
        if refused:
            raise DatabaseUnusable(text)
        try:
            self.lock = WriteLock(path, watch)
        except OSError as error:
            raise _unopened(path, error) from error
        self.path = path
        try:
            with translated(path):
                self.connection = self._connect("FULL" if full else "NORMAL")
        except BaseException:
            self.lock.close()
            raise

    def _connect(self, synchronous: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, cached_statements=256)
        try:
            with self.lock:
                self.lock.allow_long()  # a migration
                connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
                schema_version(connection)  # refuses before the WAL mode changes what is not ours
                connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
                if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                    raise DatabaseUnusable(f"{self.path}: cannot use a WAL here")
                connection.execute("PRAGMA wal_autocheckpoint = 0")
                connection.execute(f"PRAGMA journal_size_limit = {WAL_CHECKPOINT_BYTES}")
                connection.execute(f"PRAGMA synchronous = {synchronous}")
                connection.execute("PRAGMA mmap_size = 0")
                connection.execute("PRAGMA temp_store = MEMORY")
                connection.execute("PRAGMA secure_delete = OFF")
                migrate(connection)
                # A file that opens for reading only fails here, where opening is tried again.
                connection.execute(TRY_TO_WRITE)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One short BEGIN IMMEDIATE under the write lock.

        Raises StorageUnavailable where the database cannot be written; then nothing has changed.
        """
        connection = self.connection
        with translated(self.path), self.lock:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def version(self) -> int:
        """Changes when another process has committed; asking costs next to nothing."""
        with translated(self.path):
            (version,) = self.connection.execute("PRAGMA data_version").fetchone()
            return int(version)

    def close(self) -> None:
        self.connection.close()
        self.lock.close()


def open_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection, for commands.

    Raises DatabaseUnusable or StorageUnavailable; an absent file is `cannot be opened`.
    """
    path = filesystem.resolved(path)
    with translated(path):
        try:
            return _read_only(path, "mode=ro")
        except sqlite3.OperationalError as error:
            # A read-only place has no room for -shm. Without a WAL the file itself is all there is.
            wal = path.with_name(path.name + "-wal")
            has_wal = wal.exists() and wal.stat().st_size
            if _code(error) not in NO_SHM or not path.is_file() or has_wal:
                raise
        return _read_only(path, "mode=ro&immutable=1")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """One consistent view of the database, for commands. Raises as open_reader() does."""
    with contextlib.closing(open_reader(path)) as connection, translated(path):
        connection.execute("BEGIN")
        yield connection


def _read_only(path: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        if schema_version(connection) == 0:
            raise DatabaseUnusable("is empty; sensor-node-ctl start makes its tables")
    except BaseException:
        connection.close()
        raise
    return connection


def sqlite_facts() -> dict[str, str | bool]:
    """Which SQLite this is, and whether it has the bug that the write lock avoids."""
    first, last = WAL_RESET_BUG
    affected = first <= sqlite3.sqlite_version_info <= last
    return {"version": sqlite3.sqlite_version, "wal_reset_bug": affected}


def _code(error: sqlite3.Error) -> int:
    """The primary code; but a disk without room for the -shm file is full, not dying."""
    code = int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR))
    return sqlite3.SQLITE_FULL if code == sqlite3.SQLITE_IOERR_SHMSIZE else code & 0xFF


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, with the file's name."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = _code(error)
        if code == sqlite3.SQLITE_NOTADB:
            raise DatabaseUnusable(
                f"{path}: is not a SQLite database; move it away or set another [storage] path"
            ) from error
        if code not in REASONS:
            raise
        raise StorageUnavailable(REASONS[code], f"{path}: {error}") from error
    except DatabaseUnusable as error:
        if str(error).startswith(str(path)):
            raise
        raise DatabaseUnusable(f"{path}: {error}") from error


def _unopened(path: Path, error: OSError) -> StorageUnavailable:
    reason = LOCK_REASONS.get(error.errno or 0, "cannot be opened")
    return StorageUnavailable(reason, f"{path.parent}: {os.strerror(error.errno or 0)}")
