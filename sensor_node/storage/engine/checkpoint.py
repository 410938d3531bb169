"""Moves the WAL's pages into the database file, under the write lock.

SQLite 3.7.0 to 3.51.2 can corrupt a database when a checkpoint races the commit that resets the
WAL (https://www.sqlite.org/wal.html#walresetbug); under the lock there is no such race.
"""

import sqlite3
from pathlib import Path
from typing import NamedTuple

from sensor_node.storage.engine.write_lock import WriteLock

# Below this a checkpoint would write the same few pages again and again, and wear out the flash. A
# WAL that begins anew is cut to this: it is written in place, and a longer file is one that has
# something to move.
WAL_CHECKPOINT_BYTES = 1024 * 1024
WAL_LIMIT_BYTES = 16 * 1024 * 1024
# Beyond this the generator does it, since the housekeeper seems not to.
WAL_EMERGENCY_BYTES = 4 * WAL_LIMIT_BYTES


class Log(NamedTuple):
    """What a checkpoint left of the WAL: `moved` of its `frames` are in the file.

    `busy`: it was not truncated, or not even looked at, for another program's sake.
    """

    busy: bool
    frames: int
    moved: int

    @property
    def is_emptied(self) -> bool:
        """Whether the next commit begins it anew, or would but for a reader of its very end."""
        return not self.busy and self.moved == self.frames


def wal_bytes(database: Path) -> int:
    """Size of the WAL, by stat() alone: opening and closing it would drop this process's locks."""
    try:
        return database.with_name(database.name + "-wal").stat().st_size
    except FileNotFoundError:
        return 0


def checkpoint(connection: sqlite3.Connection, lock: WriteLock, *, truncate: bool) -> Log:
    """PASSIVE never waits for readers; TRUNCATE gives the disk back, if no reader is in the way."""
    with lock:
        # On a slow card; ended half way, it would only begin anew.
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
