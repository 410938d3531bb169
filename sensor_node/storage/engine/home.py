"""Keeps a database's home: of the names of its file, the one that its WAL lies beside.

SQLite looks for the WAL beside the name that it is given. If it was given another name of the same
file (a hard link), it would miss what is in the WAL, write, and so ruin the file. So a file with
several names may be used by its home only. A file with one name, perhaps moved or copied, has its
home there.

The home is an attribute of the file (xattr(7)) and not a row: rows are read through the WAL, and
the one beside a wrong name may be another database's. File systems without attributes seldom have
links. See docs/adr/0021.
"""

import contextlib
import os
from pathlib import Path

from sensor_node.core.errors import DatabaseUnusable

ATTRIBUTE = "user.sensor-node.home"


def insist_on(path: Path) -> None:
    """Call this before a database is opened. Raises DatabaseUnusable if `path` is not its home.

    `path` has no symbolic link in it. Opens nothing.
    """
    names = _name_count(path)
    if names <= 1 or (home := _home_of(path)) == os.fsencode(path):
        return
    known = f"its WAL lies beside {os.fsdecode(home)}" if home else "nobody knows which has the WAL"
    hint = "use that, or a copy" if home else "remove the others, or use a copy"
    raise DatabaseUnusable(f"{path}: is one of {names} names (hard links), {known}; {hint}")


def note(path: Path) -> None:
    """Make `path` the home: it was opened by that name, or moved with its WAL. Opens nothing."""
    if _home_of(path) != os.fsencode(path):
        with contextlib.suppress(OSError):  # no attributes on this file system, or no room
            os.setxattr(path, ATTRIBUTE, os.fsencode(path))


def _name_count(path: Path) -> int:
    """0 if there is no file, or this process may not look."""
    try:
        return path.stat().st_nlink
    except OSError:
        return 0


def _home_of(path: Path) -> bytes:
    """b"" if none is noted."""
    try:
        return os.getxattr(path, ATTRIBUTE)
    except OSError:
        return b""
