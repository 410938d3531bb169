"""Says in one line, with a reason to group by, what is wrong with the database."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sensor_node.core.errors import DatabaseDamaged, DatabaseUnusable, StorageUnavailable
from sensor_node.storage.engine import header, refusal, write_lock

# Reasons to try again later, by the low byte of https://www.sqlite.org/rescode.html.
REASONS = {
    sqlite3.SQLITE_FULL: "disk full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_PERM: "no permission",
    sqlite3.SQLITE_IOERR: "I/O error",
    sqlite3.SQLITE_BUSY: "locked by another program",
    sqlite3.SQLITE_LOCKED: "locked by another program",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_TOOBIG: "damaged",
}
# I/O errors that are the file's fault and not the disk's.
DAMAGE = (sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS)
# Reasons to try again later where a lock file or another file beside it cannot be opened.
LOCK_REASONS = refusal.REASONS | {
    errno.ENOSPC: "disk full",
    errno.EROFS: "read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EIO: "I/O error",
}


def code_of(error: sqlite3.Error) -> int:
    """The low byte of the error's code, or the code that its whole code means here."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return sqlite3.SQLITE_FULL  # a disk without room for the -shm file is not dying
    if code in DAMAGE or (code is None and isinstance(error, sqlite3.OperationalError)):
        return sqlite3.SQLITE_CORRUPT  # without a code: text in the database is not UTF-8
    return int(code or sqlite3.SQLITE_ERROR) & 0xFF


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, with the file's name.

    An error that is in no list is a mistake in our SQL and stays as it is.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = code_of(error)
        if code == sqlite3.SQLITE_NOTADB and not write_lock.was_made_for(path):
            raise DatabaseUnusable(f"{path}: {header.NO_DATABASE}") from error
        if code not in REASONS:
            raise
        is_write = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_WRITE
        reason = (is_write and refusal.of_writing(path)) or REASONS[code]
        raise StorageUnavailable(reason, f"{path}: {error}") from error
    except (DatabaseDamaged, UnicodeDecodeError) as error:  # damaged text in SQLite's message
        raise StorageUnavailable("damaged", f"{path}: {error}") from error
    except DatabaseUnusable as error:
        if str(error).startswith(str(path)):
            raise
        raise DatabaseUnusable(f"{path}: {error}") from error


def cannot_open(path: Path, error: OSError) -> StorageUnavailable:
    """For a file beside the database."""
    reason = LOCK_REASONS.get(error.errno or 0, "cannot be opened")
    return StorageUnavailable(reason, f"{path.parent}: {os.strerror(error.errno or 0)}")
