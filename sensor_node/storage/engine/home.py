"""A database's home: the name beside which its WAL lies. See docs/adr/0021.

SQLite looks for the WAL beside the name that it is given. By another name of the same file (a hard
link) it would not see what lies in the WAL, write, and so ruin the file. So a file with several
names is used by one only. A file with one name may have been moved or copied: it is at home there.

The home is an attribute of the file (xattr(7)) and not a row: rows are read through the WAL, which
by the wrong name may be another database's. File systems without attributes seldom have links.
"""

import contextlib
import os
from pathlib import Path

from sensor_node.core.errors import DatabaseUnusable

ATTRIBUTE = "user.sensor-node.home"


def insist_on(path: Path) -> None:
    """Before a database is opened. Raises DatabaseUnusable for a name that is not its home's.

    `path` has no symbolic link in it. Opens nothing.
    """
    names = _names(path)
    if names <= 1 or (home := _of(path)) == os.fsencode(path):
        return
    known = f"its WAL lies beside {os.fsdecode(home)}" if home else "nobody knows which has the WAL"
    hint = "use that, or a copy" if home else "remove the others, or use a copy"
    raise DatabaseUnusable(f"{path}: is one of {names} names (hard links), {known}; {hint}")


def note(path: Path) -> None:
    """That it is there: it was let in, or moved with its WAL. Opens nothing."""
    if _of(path) != os.fsencode(path):
        with contextlib.suppress(OSError):  # no attributes here, or no room
            os.setxattr(path, ATTRIBUTE, os.fsencode(path))


def _names(path: Path) -> int:
    """0 where there is no file, or nobody may know."""
    try:
        return path.stat().st_nlink
    except OSError:
        return 0


def _of(path: Path) -> bytes:
    """Empty where none is noted."""
    try:
        return os.getxattr(path, ATTRIBUTE)
    except OSError:
        return b""
