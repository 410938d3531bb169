"""Makes sure that the disk has room for the -shm file, as SIGBUS ends a process that lacks it.

SQLite maps the file. First it writes one byte in each 4096, to get an error from a full disk. But a
file system with smaller blocks, such as a small ext4, may have room for that byte's block and not
for the next.
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
HEADER_FRAMES = 34  # the first region holds so many fewer, because of its header
FRAME_HEADER_BYTES = 24
# For what is written between the opening and the first use of a whole region: the first commit, and
# the file system's own blocks that point to the new ones.
SLACK_BYTES = 32 * 1024


def insist_on_room(path: Path, page_size: int) -> None:
    """Call this before the database is opened. Raises StorageUnavailable("disk full").

    The first process that opens the database writes the index of the whole WAL anew. `page_size`
    is in bytes.
    """
    try:
        disk, wal = os.statvfs(path.parent), wal_bytes(path)
    except OSError:
        return  # opening the database will say why
    if disk.f_frsize >= STEP_BYTES or holders.is_open(path) or not disk.f_blocks:
        return
    file = shm_of(path)
    if not os.access(file if file.exists() else path.parent, os.W_OK):
        return  # a process that may not write it gets no SIGBUS
    frames = wal // (page_size + FRAME_HEADER_BYTES)
    regions = 1 + (frames + HEADER_FRAMES - 1) // REGION_FRAMES
    if disk.f_bavail * disk.f_frsize < regions * REGION_BYTES + SLACK_BYTES:
        raise StorageUnavailable("disk full", f"{path}: the disk has no room for its -shm file")
