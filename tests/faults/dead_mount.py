"""A file system that never answers, as a dead NFS server's: whoever looks into it hangs there.

It is a FUSE mount that nobody serves. A process that asks it anything sleeps in the system call,
where only SIGKILL reaches it, until the mount is taken away.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
FUSE = Path("/dev/fuse")
MNT_DETACH = 2


def why_not() -> str:
    """Why there can be none here; nothing if there can."""
    if os.geteuid():
        return "only root can mount"
    return "" if FUSE.exists() else f"there is no {FUSE}"


@contextlib.contextmanager
def dead_mount(place: Path) -> Iterator[None]:
    """Over a directory, which is there again afterwards."""
    device = os.open(FUSE, os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
        _call(LIBC.mount(b"dead", bytes(place), b"fuse", 0, options.encode()), place)
        try:
            yield
        finally:
            _call(LIBC.umount2(bytes(place), MNT_DETACH), place)
    finally:
        os.close(device)  # ends the wait of all who hang


def _call(result: int, place: Path) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(place))
