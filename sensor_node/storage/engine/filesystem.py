"""Whether a database can live where it is told to: not on a network, better not in memory."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sensor_node.core.errors import DatabaseUnusable
from sensor_node.system.files import FOREIGN_LINK, is_foreign_link, is_irregular, real

MOUNTS = Path("/proc/self/mountinfo")
# flock, shared memory or both do not work across machines on these.
NETWORK_TYPES = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "fuse.sshfs", "fuse.glusterfs")
)
# How the kernel writes a space, tab, newline or backslash.
OCTAL = re.compile(r"\\([0-7]{3})")
# SQLite's own limit is 512, with room for the ends of its other files' names.
MOST_PATH_BYTES = 500
VOLATILE_TYPES = frozenset(("tmpfs", "ramfs"))
# Beside the database file, made by SQLite and by us.
COMPANIONS = ("-wal", "-shm", "-journal", ".turnstile", ".writer", ".appliance")


def resolved(path: Path) -> Path:
    """Where the database is, if its place is a link.

    Raises DatabaseUnusable for a link of another user's, and for one in the place of a file beside
    the database: neither SQLite nor we follow that, but this says what to do. So for a directory,
    which to SQLite is an I/O error; and for a file that is mounted by itself, as its WAL would lie
    in another directory than whoever uses the file elsewhere looks into.
    """
    if is_foreign_link(path):
        raise DatabaseUnusable(f"{path}: {FOREIGN_LINK}")
    path = real(path)
    if path.is_symlink():
        raise DatabaseUnusable(f"{path}: is a symbolic link to itself; remove it")
    if is_irregular(path):
        what = "a directory" if path.is_dir() else "no regular file"
        raise DatabaseUnusable(f"{path}: is {what}; set another [storage] path")
    if any(point == str(path) for point, _, _ in _mounts(_mountinfo())):
        raise DatabaseUnusable(f"{path}: is mounted by itself; mount its directory instead")
    for suffix in COMPANIONS:
        companion = path.with_name(path.name + suffix)
        if companion.is_symlink():
            raise DatabaseUnusable(f"{companion}: is a symbolic link; remove it")
        if is_irregular(companion):
            raise DatabaseUnusable(f"{companion}: is no regular file; remove it")
    return path


def file_system_of(path: Path, mounts: str) -> tuple[str, str]:
    """Type and super options of the file system that holds `path`, from mountinfo's text.

    The last mount on the longest mount point wins, as later mounts hide earlier ones.
    """
    best, found = -1, ("", "")
    for point, kind, options in _mounts(mounts):
        if len(point) >= best and path.is_relative_to(point):
            best, found = len(point), (kind, options)
    return found


def _mountinfo() -> str:
    """Empty where there is no /proc, as in a rescue shell's chroot: its commands only look."""
    if not MOUNTS.exists():
        return ""
    return MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")


def _mounts(mounts: str) -> Iterator[tuple[str, str, str]]:
    """Mount point, type and super options of each line."""
    for line in filter(None, mounts.split("\n")):
        left, _, right = line.partition(" - ")
        point = OCTAL.sub(lambda found: chr(int(found[1], 8)), left.split(" ")[4])
        kind, _, options = right.split(" ", 2)
        yield point, kind, options


def is_read_only(path: Path) -> bool:
    """Whether its place is mounted so, or the kernel has made it so after an error."""
    directory = path.parent.resolve()
    _, options = file_system_of(directory, _mountinfo())
    mounted = os.statvfs(directory).f_flag & os.ST_RDONLY
    return bool(mounted) or "emergency_ro" in options.split(",")


def complaint(path: Path) -> tuple[str, bool]:
    """What is wrong with the place of the database, and whether it must be refused."""
    if len(os.fsencode(real(path))) > MOST_PATH_BYTES:
        text = f"{path}: is too long for SQLite, which takes {MOST_PATH_BYTES} bytes"
        return f"{text}; set another [storage] path", True
    mounts = _mountinfo()
    kind, options = file_system_of(path.parent.resolve(), mounts)
    if kind in NETWORK_TYPES:
        return (
            f"{path}: is on a network file system ({kind}); move [storage] path to a local disk",
            True,
        )
    if kind in VOLATILE_TYPES or (kind == "overlay" and _upper_is_volatile(options, mounts)):
        return f"{path}: is in memory ({kind}); readings there do not survive a reboot", False
    return "", False


def _upper_is_volatile(options: str, mounts: str) -> bool:
    for option in options.split(","):
        name, _, value = option.partition("=")
        if name == "upperdir":
            return file_system_of(Path(value), mounts)[0] in VOLATILE_TYPES
    return False
