"""Files in directories where another user may have put anything: recognized, and opened safely."""

import errno
import os
import stat
from pathlib import Path
from typing import IO, Any

FOREIGN_LINK = "is a symbolic link that another user made; remove it"


def real(name: Path) -> Path:
    """The path that links lead to. A link to itself stays; Path.resolve() may raise for one."""
    return Path(os.path.realpath(name))


def is_foreign_link(name: Path) -> bool:
    """Whether this is a link that another user made, and may lead elsewhere; root may make them."""
    try:
        link = name.lstat()
    except OSError:
        return False
    return stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid())


def is_missing(name: Path) -> bool:
    """Whether nothing has this name; False if we may not look."""
    try:
        name.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def is_irregular(name: Path) -> bool:
    """Whether something is there that is no regular file. Raises OSError if we may not look.

    It looks only once: at a second look the file may be gone.
    """
    try:
        return not stat.S_ISREG(name.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise


def is_same_file(file: os.stat_result, name: Path) -> bool:
    """Whether this name means that file now."""
    try:
        return os.path.samestat(file, name.stat())
    except OSError:
        return False


def open_unlinked(file: Path, mode: str = "r") -> IO[Any]:
    """open() for files in the node's own directories, where somebody may have put anything.

    It follows no link and waits for no pipe. Raises OSError for all but regular files.
    """
    return open(file, mode, opener=_open_unlinked)


def _open_unlinked(file: str, flags: int) -> int:
    descriptor = os.open(file, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no file", file)
    return descriptor
