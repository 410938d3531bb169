"""Opens the database for writing or for reading; where it cannot, the error is one line.

A file is *replaced* when another file, or none, has its name: a process has put the damaged file
into quarantine, or a person has exchanged or deleted it. The process that notices closes its
connection and raises StorageUnavailable("replaced") once, because what it knows is of the old file.
Its next use opens the file that has the name by then, or makes a fresh one.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from sensor_node.core.errors import DatabaseDamaged, DatabaseUnusable, StorageUnavailable
from sensor_node.storage.engine import (
    after_commit,
    filesystem,
    header,
    home,
    quarantine,
    rollback_journal,
    shm,
    sqlite_errors,
    write_lock,
)
from sensor_node.storage.engine.after_commit import Line, LoggingConnection
from sensor_node.storage.engine.checkpoint import WAL_CHECKPOINT_BYTES, wal_bytes
from sensor_node.storage.engine.schema import migrate, schema_version
from sensor_node.storage.engine.write_lock import LockWatch, WriteLock
from sensor_node.system.log import LOGGER

# Our own processes wait for the write lock instead; this is for a person's sqlite3 shell.
BUSY_TIMEOUT_MS = 250
# The WAL-reset bug: https://www.sqlite.org/wal.html#walresetbug. The write lock avoids it.
WAL_RESET_BUG = ((3, 7, 0), (3, 51, 2))
# A quarter of the flash wear at one reading a commit: see docs/adr/0005.
PAGE_SIZE = 1024
TRY_TO_WRITE = "UPDATE sink SET state = state WHERE 0"
# A reader that cannot make a -shm file gets one of these.
NO_SHM = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)

Connection = sqlite3.Connection  # for modules that only pass one on


class Database:
    """A connection that writes, and the write lock, for one process and one thread.

    Make it after the fork. `full`: each commit is `synchronous=FULL` and so survives power loss.
    `replaces`: a damaged file is put into quarantine, and the next use makes a fresh one. Raises
    DatabaseUnusable for a place or file that no node can use, StorageUnavailable for what may pass.
    """

    def __init__(self, path: Path, watch: LockWatch, *, full: bool, replaces: bool = False) -> None:
        complaint, is_refused = filesystem.complaint(path)
        if is_refused:
            raise DatabaseUnusable(complaint)
        header.insist_on_ours(path)
        try:
            self.lock = WriteLock(path, watch)
        except OSError as error:
            raise sqlite_errors.cannot_open(path, error) from error
        self.path = path
        self._synchronous = "FULL" if full else "NORMAL"
        self._replaces = replaces
        self._connection: LoggingConnection | None = None
        self.connects = 0  # how many connections there have been; each may be to another file
        self._file_id: tuple[int, int] | None = None  # of the file that the connection is to
        try:
            self._connect()
        except BaseException:
            self.lock.close()
            raise

    @property
    def connection(self) -> LoggingConnection:
        """To the file that has the name now.

        Raises StorageUnavailable("replaced") once where that is another file than before.
        """
        if self._connection is None:
            self._connect()
        elif self._present_file_id() != self._file_id:
            self._disconnect()
            raise StorageUnavailable("replaced", f"{self.path}: is not the file that it was")
        assert self._connection
        return self._connection

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn SQLite's errors into ours; put a damaged file into quarantine."""
        try:
            with sqlite_errors.translated(self.path):
                yield
        except StorageUnavailable as error:
            if error.reason == "damaged" and self._replaces:
                self._quarantine(error)
            raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One short BEGIN IMMEDIATE under the write lock.

        Raises StorageUnavailable where the database cannot be written; then nothing has changed.
        """
        if self._connection is None:
            self._connect()
        lines: list[Line] = []
        with self.guarded(), self.lock:
            connection = self.connection
            connection.lines = lines
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        after_commit.write(lines)  # not while others wait for the lock

    @contextlib.contextmanager
    def read_transaction(self) -> Iterator[sqlite3.Connection]:
        """One snapshot to read from, without the write lock."""
        with self.guarded():
            connection = self.connection
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:  # on an I/O error SQLite itself has ended it
                    connection.execute("ROLLBACK")

    def version(self) -> int:
        """A number that changes when another process has committed; cheap to ask for."""
        with self.guarded():
            (version,) = self.connection.execute("PRAGMA data_version").fetchone()
            return (self.connects << 32) + int(version)  # each connection counts from 1

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self.lock.close()

    def _connect(self) -> None:
        """Raises StorageUnavailable or DatabaseUnusable; then nothing is open."""
        if not self.lock.is_in_place():
            # The file of that name may be another appliance's, under another lock.
            raise StorageUnavailable("replaced", f"{self.path}: its lock files were taken away")
        try:
            with self.guarded(), self.lock:
                self.lock.allow_long()  # a migration takes long
                home.insist_on(self.path)
                rollback_journal.quarantine(self.path)
                self._prepare_place()
                shm.insist_on_room(self.path, PAGE_SIZE)
                self._connection = sqlite3.connect(
                    self.path,
                    isolation_level=None,
                    cached_statements=256,
                    factory=LoggingConnection,
                )
                self.connects += 1
                self._file_id = self._present_file_id()
                self._configure(self._connection)
                home.note(self.path)
        except BaseException:
            self._disconnect()
            raise

    def _configure(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        schema_version(connection)  # refuses another's file before WAL mode changes it
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise DatabaseUnusable(f"{self.path}: cannot use a WAL here")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_CHECKPOINT_BYTES}")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA secure_delete = OFF")
        migrate(connection)
        # A file that SQLite could open only for reading fails here, and opening is tried again.
        connection.execute(TRY_TO_WRITE)

    def _prepare_place(self) -> None:
        """Clear away what a fresh database must not find; raise for a file that was cut short."""
        self._file_id = self._present_file_id()
        size = self.path.stat().st_size if self.path.is_file() else None
        # SQLite would take it for a new file. An empty one is new, after a start on a full disk.
        if size is not None and size < header.BYTES and (size or wal_bytes(self.path)):
            raise DatabaseDamaged(f"is cut to {size} bytes")
        if self._file_id is None and self._replaces:
            try:
                wal = quarantine.clear(self.path, time.time())
            except OSError as error:
                raise sqlite_errors.cannot_open(self.path, error) from error
            if wal:
                LOGGER.error("database_gone %s: its WAL is now %s", self.path, wal)

    def _quarantine(self, damage: StorageUnavailable) -> None:
        """Nothing if another process was faster or it is too soon; else raises StorageUnavailable.

        The connection closes after the rename, so that SQLite leaves the WAL alone.
        """
        with contextlib.ExitStack() as files:
            try:
                with self.lock:
                    if self._file_id is None or quarantine.file_id(self.path) != self._file_id:
                        return  # another process was faster
                    if not quarantine.is_time(self.path, time.time()):
                        return
                    self.lock.allow_long()
                    # _disconnect comes before the files close: that drops this process's locks.
                    withheld = quarantine.withheld(self.path, files)
                    files.callback(self._disconnect)
                    moved = None if withheld else quarantine.move(self.path, time.time())
            except OSError as error:
                message = f"{damage}; cannot be moved aside: {error.strerror}"
                raise StorageUnavailable("damaged", message) from damage
        if withheld:
            raise StorageUnavailable("I/O error", f"{self.path}: {withheld}") from damage
        if moved:
            LOGGER.error(
                "database_damaged %s; moved to %s, a fresh one begins: sensor-node-ctl salvage %s",
                *(damage, moved, moved),
            )
            raise StorageUnavailable("replaced", f"{self.path}: was damaged") from damage

    def _present_file_id(self) -> tuple[int, int] | None:
        """Of the file that has the name now; None if there is none."""
        try:
            return quarantine.file_id(self.path)
        except OSError as error:
            raise sqlite_errors.cannot_open(self.path, error) from error

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def open_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection, for commands.

    Raises DatabaseUnusable or StorageUnavailable; an absent file is "cannot be opened".
    """
    path = filesystem.resolved(path)
    home.insist_on(path)
    # A reader cannot play a journal back, and cannot read while there is one.
    if rollback_journal.lies_beside(path):
        with write_lock.at_once(path) as is_locked:
            if is_locked:
                rollback_journal.quarantine(path)
    if path.is_file():
        shm.insist_on_room(path, PAGE_SIZE)
    with sqlite_errors.translated(path):
        try:
            return _read_only(path, "mode=ro")
        except sqlite3.OperationalError as error:
            # A -shm file cannot be made in a read-only place. Without a WAL the file holds it all.
            if sqlite_errors.code_of(error) not in NO_SHM or not path.is_file() or wal_bytes(path):
                raise
        return _read_only(path, "mode=ro&immutable=1")


@contextlib.contextmanager
def read_transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """One snapshot of the database, for commands. Raises as open_reader() does."""
    with contextlib.closing(open_reader(path)) as connection, sqlite_errors.translated(path):
        connection.execute("BEGIN")
        yield connection


def _read_only(path: Path, parameters: str) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?{parameters}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
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
