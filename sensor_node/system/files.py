"""Files in directories where somebody else may have put anything: told apart, and opened safely."""

import errno
import os
import stat
from pathlib import Path
from typing import IO, Any

FOREIGN_LINK = "is a symbolic link that another user made; remove it"


def real(name: Path) -> Path:
    """Where links lead to. One that leads to itself stays; for that, Path.resolve() may raise."""
    return Path(os.path.realpath(name))


def is_foreign_link(name: Path) -> bool:
    """Whether another user, but for root, has put a link there, and says where it leads."""
    try:
        found = name.lstat()
    except OSError:
        return False
    return stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid())


def is_missing(name: Path) -> bool:
    """Whether nothing is there; what may not be seen may be there."""
    try:
        name.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def is_irregular(name: Path) -> bool:
    """Whether what is there is no regular file, told by one look: it may be gone at a second."""
    try:
        return not stat.S_ISREG(name.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise


def is_same_file(file: os.stat_result, name: Path) -> bool:
    """Whether the file that `file` is of is the one that has this name now."""
    try:
        return os.path.samestat(file, name.stat())
    except OSError:
        return False


def open_unlinked(file: Path, mode: str = "r") -> IO[Any]:
    """open() for files in the node's own directories, where somebody may have put anything.

    What is no regular file is an OSError.
    """
    return open(file, mode, opener=_open_unlinked)


def _open_unlinked(file: str, flags: int) -> int:
    descriptor = os.open(file, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no file", file)
    return descriptor
