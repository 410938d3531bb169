"""How much room the database has: up to `max_size`, while others keep `min_free` of the disk."""

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sensor_node.core.model import Readings
from sensor_node.storage.engine.checkpoint import WAL_CHECKPOINT_BYTES, WAL_LIMIT_BYTES, wal_bytes

SPARE_SHARE = 0.05
SPARE_BYTES = 1024 * 1024
# On a full disk the file cannot grow. If it is small, most of it is for readings all the same.
MOST_SPARE_SHARE = 0.25
# Readings never take this, however small `min_free` is. To delete rows, the WAL must grow, and to
# empty it, the file must grow: both need free disk space. See docs/adr/0008.
RESERVE_BYTES = 4 * 1024 * 1024
# Why readings are dropped.
NO_ROOM = "no room"
LOG_HELD = "no room: another program holds the log"
# Most bytes of the file that a reading takes, beside its name.
READING_BYTES = 48


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """Bytes: `max_size` that the file may have, `min_free` of the disk that others keep."""

    max_size: int
    min_free: int


@dataclass(frozen=True, slots=True)
class Space:
    """What the limits mean now; everything in bytes.

    `used`: pages in use; `limit`: what they may come to. `file_bytes`: the file, as it will be when
    the WAL has been moved into it. `disk_free`: free for us on the disk. `growth`: what of that the
    file and the WAL may still take. `wal_bytes`: the WAL. `unmoved`: what the file must still grow
    by when the WAL is moved.
    """

    used: int
    limit: int
    file_bytes: int
    disk_free: int
    growth: int
    wal_bytes: int
    unmoved: int

    @property
    def left(self) -> int:
        """What readings may still take; eviction adds to it."""
        return self.limit - self.used

    @property
    def spare(self) -> float:
        """How much of the limit is kept free, so that capture need not wait for an eviction."""
        return min(max(SPARE_BYTES, self.limit * SPARE_SHARE), self.limit * MOST_SPARE_SHARE)

    def fitting(self, readings: Readings) -> Readings:
        """The first of the readings, as many as there is certainly room for."""
        names = {reading.name for reading in readings}
        longest = max((len(name.encode()) for name in names), default=0)
        return readings[: max(0, self.left) // (READING_BYTES + longest)]

    @property
    def cramped(self) -> bool:
        """More than half of the reserve is gone: the WAL can hardly grow, so it must be emptied."""
        return self.disk_free < RESERVE_BYTES / 2

    @property
    def tight(self) -> bool:
        """The disk has no more for us, and the WAL is long: it must be emptied before it grows.

        If it cannot be emptied, each write uses up some of the reserve. Without a reserve it could
        not be emptied later either, when no reader is in the way any more.
        """
        if self.growth:
            return False
        is_short = self._reserve < RESERVE_BYTES / 2
        return self.wal_bytes > (WAL_CHECKPOINT_BYTES if is_short else WAL_LIMIT_BYTES)

    @property
    def exhausted(self) -> bool:
        """What is left of the reserve is only for work in hand, and for emptying the WAL."""
        return self._reserve < RESERVE_BYTES / 8

    @property
    def _reserve(self) -> int:
        """What will be free on the disk when the WAL has been moved into the file."""
        return self.disk_free - self.unmoved


def is_tight(connection: sqlite3.Connection, path: Path, min_free: int) -> bool:
    """Space.tight, cheap enough to ask often: while the WAL is short, it takes one stat()."""
    return (
        wal_bytes(path) > WAL_CHECKPOINT_BYTES
        and measure(connection, path, SizeLimits(0, min_free)).tight
    )


def measure(connection: sqlite3.Connection, path: Path, limits: SizeLimits) -> Space:
    """Compare the pages in use with what the file may grow to.

    If other programs fill the disk, the file does not shrink: it keeps its pages, and the oldest
    readings make room for new ones inside it. A new page that is only in the WAL takes disk space a
    second time when it is moved into the file.
    """
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (unused,) = connection.execute("PRAGMA freelist_count").fetchone()
    disk = os.statvfs(path.parent)
    disk_free = disk.f_bavail * disk.f_frsize
    file_bytes = pages * page_size
    unmoved = max(0, file_bytes - path.stat().st_size)
    growth = max(0, disk_free - unmoved - max(limits.min_free, RESERVE_BYTES))
    return Space(
        used=(pages - unused) * page_size,
        limit=min(limits.max_size, file_bytes + growth),
        file_bytes=file_bytes,
        disk_free=disk_free,
        growth=growth,
        wal_bytes=wal_bytes(path),
        unmoved=unmoved,
    )
