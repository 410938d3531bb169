"""Whether SQLite's recovery after a crash can bring back all that the WAL was given.

It reads the WAL up to the first frame that is damaged and says nothing of those behind it. See
https://www.sqlite.org/fileformat.html#the_write_ahead_log.
"""

import struct
from pathlib import Path
from typing import BinaryIO

from sensor_node.storage.aside import shm_of, wal_of

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
BIG_ENDIAN = 0x377F0683
PAGE_SIZES = {2**power for power in range(9, 17)}
USUAL_PAGE_SIZE = 1024


def committed_frames(database: Path) -> int:
    """How many frames there are up to the last commit, whatever has become of those before it.

    Where a crash has left the -shm file but the WAL was taken away, there was one at least. Opens
    and closes the WAL: for a process that has no connection yet.
    """
    wal = wal_of(database)
    if not wal.exists():
        return int(shm_of(database).exists())
    with wal.open("rb") as file:
        header = file.read(HEADER_BYTES)
        return _committed(file, header) if len(header) == HEADER_BYTES else 0


def _committed(file: BinaryIO, header: bytes) -> int:
    order = ">" if int.from_bytes(header[:4]) == BIG_ENDIAN else "<"
    page_size = int.from_bytes(header[8:12])
    page_size = page_size if page_size in PAGE_SIZES else USUAL_PAGE_SIZE
    headers = _frame_headers(file, page_size)
    # A WAL that begins anew writes its header first; older frames lie behind it.
    is_sound = _checksum(order, bytes(8), header[:24]) == header[24:]
    salts = header[16:24] if is_sound or not headers else headers[0][8:16]
    before = [header[24:], *(frame[16:24] for frame in headers)]
    for number in range(len(headers), 0, -1):
        frame = headers[number - 1]
        if frame[8:16] == salts and any(frame[4:8]):
            # Was it written to its end? Going by what the frame before says of itself.
            file.seek(HEADER_BYTES + number * (FRAME_HEADER_BYTES + page_size) - page_size)
            if _checksum(order, before[number - 1], frame[:8] + file.read(page_size)) == frame[16:]:
                return number
    return 0


def _frame_headers(file: BinaryIO, page_size: int) -> list[bytes]:
    found = []
    file.seek(HEADER_BYTES)
    while len(frame := file.read(FRAME_HEADER_BYTES)) == FRAME_HEADER_BYTES:
        found.append(frame)
        file.seek(page_size, 1)
    return found


def _checksum(order: str, before: bytes, content: bytes) -> bytes:
    """Of the content, going on from the checksum of what came before."""
    if len(content) % 8:
        return b""  # the file ends within it
    first, second = struct.unpack(">2I", before)
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return struct.pack(">2I", first, second)
