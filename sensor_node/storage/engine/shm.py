"""Room for the -shm file, which SQLite maps: to write where the disk has none ends the process.

SQLite writes a byte each 4096 before, so as to be told in time. Where a block is less than that, as
on small ext4 disks, the byte has room and what is around it has not: SIGBUS.
"""

import os
from pathlib import Path

from sensor_node.core.errors import StorageUnavailable
from sensor_node.storage.engine import holders
from sensor_node.storage.engine.checkpoint import wal_bytes
from sensor_node.storage.engine.quarantine import shm_of

STEP_BYTES = 4096
# https://www.sqlite.org/walformat.html#the_wal_index_file_format
REGION_BYTES = 32 * 1024
REGION_FRAMES = 4096
HEADER_FRAMES = 34  # that the first region holds less, because of its header
FRAME_HEADER_BYTES = 24
# For what is written between opening the database and the first use of all of a region: the first
# commit, and what the file system needs to find the blocks.
SLACK_BYTES = 32 * 1024


def insist_on_room(path: Path, page_size: int) -> None:
    """Before the database is opened. Raises StorageUnavailable("disk full").

    Whoever opens the database first makes the index anew, of all that is in the WAL.
    """
    try:
        disk, wal = os.statvfs(path.parent), wal_bytes(path)
    except OSError:
        return  # opening it will say why
    if disk.f_frsize >= STEP_BYTES or holders.is_open(path) or not disk.f_blocks:
        return
    file = shm_of(path)
    if not os.access(file if file.exists() else path.parent, os.W_OK):
        return  # who may not write it is not ended by it
    frames = wal // (page_size + FRAME_HEADER_BYTES)
    regions = 1 + (frames + HEADER_FRAMES - 1) // REGION_FRAMES
    if disk.f_bavail * disk.f_frsize < regions * REGION_BYTES + SLACK_BYTES:
        raise StorageUnavailable("disk full", f"{path}: the disk has no room for its -shm file")
