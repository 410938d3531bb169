"""How much room the database has: `max_size` of its own, and `min_free` left to others."""

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sensor_node.core.model import Readings
from sensor_node.storage.engine.checkpoint import WAL_CHECKPOINT_BYTES, WAL_LIMIT_BYTES, wal_bytes

SPARE_SHARE = 0.05
SPARE_BYTES = 1024 * 1024
# Where the disk is full, a small file is all there is: most of it is for readings.
MOST_SPARE_SHARE = 0.25
# Kept free of readings however small `min_free` is: nothing can be deleted, and the WAL cannot be
# emptied, on a disk without room for the WAL to grow and then to be moved. See docs/adr/0008.
RESERVE_BYTES = 4 * 1024 * 1024
# Why readings are dropped.
NO_ROOM = "no room"
LOG_HELD = "no room: another program holds the log"
# The most that a reading takes, beside its name.
READING_BYTES = 48


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """The limits, in bytes."""

    max_size: int
    min_free: int


@dataclass(frozen=True, slots=True)
class Space:
    """What the limits mean now, in bytes: `used` of `limit` in a file of `file_bytes`.

    `growth`: what the disk has for the file and the WAL. `unmoved`: what the file must still grow
    by to take in the WAL.
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
        """What eviction can add to."""
        return self.limit - self.used

    @property
    def spare(self) -> float:
        """What is kept free: room is made before it is needed, so that capture never waits."""
        return min(max(SPARE_BYTES, self.limit * SPARE_SHARE), self.limit * MOST_SPARE_SHARE)

    def fitting(self, readings: Readings) -> Readings:
        """As many of them, from the first on, as there is certainly room for."""
        longest = max((len(name.encode()) for name in {one.name for one in readings}), default=0)
        return readings[: max(0, self.left) // (READING_BYTES + longest)]

    @property
    def cramped(self) -> bool:
        """Others have taken of the reserve: the WAL can hardly grow, it must be used again."""
        return self.disk_free < RESERVE_BYTES / 2

    @property
    def tight(self) -> bool:
        """The WAL has had its share of a disk that has no more: it must be emptied before it grows.

        Where it cannot be, whatever is written eats from the reserve, and without that it could not
        be emptied even when nobody is in the way any more.
        """
        if self.growth:
            return False
        eats = self._reserve < RESERVE_BYTES / 2
        return self.wal_bytes > (WAL_CHECKPOINT_BYTES if eats else WAL_LIMIT_BYTES)

    @property
    def exhausted(self) -> bool:
        """What is left of the reserve is for work in hand, and for emptying the WAL."""
        return self._reserve < RESERVE_BYTES / 8

    @property
    def _reserve(self) -> int:
        """What will be free when the WAL has been moved."""
        return self.disk_free - self.unmoved


def is_tight(connection: sqlite3.Connection, path: Path, min_free: int) -> bool:
    """Space.tight, for those who ask often: a short WAL never is, and costs one stat()."""
    return (
        wal_bytes(path) > WAL_CHECKPOINT_BYTES
        and measure(connection, path, SizeLimits(0, min_free)).tight
    )


def measure(connection: sqlite3.Connection, path: Path, room: SizeLimits) -> Space:
    """Pages in use against what the file may grow to.

    A disk that others have filled never shrinks the file: pages that it has stay in use, and the
    oldest readings make room for new ones inside it. Pages that are only in the WAL take their
    place on the disk a second time when they are moved.
    """
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (unused,) = connection.execute("PRAGMA freelist_count").fetchone()
    disk = os.statvfs(path.parent)
    disk_free = disk.f_bavail * disk.f_frsize
    file_bytes = pages * page_size
    unmoved = max(0, file_bytes - path.stat().st_size)
    growth = max(0, disk_free - unmoved - max(room.min_free, RESERVE_BYTES))
    return Space(
        used=(pages - unused) * page_size,
        limit=min(room.max_size, file_bytes + growth),
        file_bytes=file_bytes,
        disk_free=disk_free,
        growth=growth,
        wal_bytes=wal_bytes(path),
        unmoved=unmoved,
    )
