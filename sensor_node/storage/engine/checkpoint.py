"""Moves the WAL's pages into the database file, under the write lock.

SQLite 3.7.0 to 3.51.2 can corrupt a database when a checkpoint races the commit that resets the
WAL (https://www.sqlite.org/wal.html#walresetbug); under the lock there is no such race.
"""

import sqlite3
from pathlib import Path
from typing import NamedTuple

from sensor_node.storage.engine.write_lock import WriteLock

# Checkpoints of a shorter WAL would write the same few pages again and again, and wear out the
# flash. SQLite cuts a WAL that begins anew to this length and overwrites it in place. So a longer
# file has something to move.
WAL_CHECKPOINT_BYTES = 1024 * 1024
WAL_LIMIT_BYTES = 16 * 1024 * 1024
# The housekeeper has failed to checkpoint a longer one, so the generator does.
WAL_EMERGENCY_BYTES = 4 * WAL_LIMIT_BYTES


class Log(NamedTuple):
    """The WAL after a checkpoint."""

    busy: bool  # another program kept it from being truncated, or from being looked at
    frames: int  # pages in the WAL; -1 if it was not looked at
    moved: int  # of these, how many are in the database file

    @property
    def is_emptied(self) -> bool:
        """All is moved: the next commit begins the WAL anew, unless a reader is at its end."""
        return not self.busy and self.moved == self.frames


def wal_bytes(database: Path) -> int:
    """The WAL's size, by stat(): opening and closing it would drop this process's locks."""
    try:
        return database.with_name(database.name + "-wal").stat().st_size
    except FileNotFoundError:
        return 0


def checkpoint(connection: sqlite3.Connection, lock: WriteLock, *, truncate: bool) -> Log:
    """Move what readers allow; `truncate` also gives the disk space back. Waits for no reader."""
    with lock:
        # It takes long on a slow card. If it was killed half way, the next would begin anew.
        lock.allow_long()
        if not truncate:
            return _log(connection.execute("PRAGMA wal_checkpoint(PASSIVE)"))
        (timeout,) = connection.execute("PRAGMA busy_timeout").fetchone()
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            return _log(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
        finally:
            connection.execute(f"PRAGMA busy_timeout = {timeout}")


def _log(result: sqlite3.Cursor) -> Log:
    [(busy, frames, moved)] = result.fetchall()
    return Log(bool(busy), frames, moved)
