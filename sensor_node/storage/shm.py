"""Room for the -shm file, which SQLite maps: to write where the disk has none ends the process.

SQLite writes a byte of each page before, so as to be told in time. Where a block is less than a
page, as on small ext4 disks, that byte has room and the rest of its page has not: SIGBUS.
"""

import os
from pathlib import Path

from sensor_node.errors import StorageUnavailable
from sensor_node.storage import holders
from sensor_node.storage.checkpoint import wal_bytes

# https://www.sqlite.org/walformat.html#the_wal_index_file_format
REGION_BYTES = 32 * 1024
REGION_FRAMES = 4096
FRAME_HEADER_BYTES = 24


def insist_on_room(path: Path, page_size: int) -> None:
    """Before the database is opened. Raises StorageUnavailable("disk full").

    Whoever opens the database first makes the index of all that is in the WAL.
    """
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return  # opening it will say why
    if not disk.f_blocks or disk.f_flag & os.ST_RDONLY:
        return  # one that does not count; where nothing is written
    free = disk.f_bavail * disk.f_frsize
    regions = 1 + wal_bytes(path) // (page_size + FRAME_HEADER_BYTES) // REGION_FRAMES
    if free < regions * REGION_BYTES - _allocated(holders.shm(path)):
        raise StorageUnavailable("disk full", f"{path}: the disk has no room for its -shm file")


def _allocated(file: Path) -> int:
    try:
        return file.stat().st_blocks * 512
    except OSError:
        return 0
