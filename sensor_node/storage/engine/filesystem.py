"""Whether a database can lie at a path: not on a network file system, better not in memory."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sensor_node.core.errors import DatabaseUnusable
from sensor_node.system.files import FOREIGN_LINK, is_foreign_link, is_irregular, real

MOUNTS = Path("/proc/self/mountinfo")
# On these, flock, shared memory or both do not work between machines.
NETWORK_TYPES = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "fuse.sshfs", "fuse.glusterfs")
)
# So the kernel writes a space, tab, newline or backslash in a path.
OCTAL = re.compile(r"\\([0-7]{3})")
# SQLite's limit is 512, and the names of its other files are longer.
MOST_PATH_BYTES = 500
VOLATILE_TYPES = frozenset(("tmpfs", "ramfs"))
# Name endings of the files that SQLite and we make beside the database.
COMPANIONS = ("-wal", "-shm", "-journal", ".turnstile", ".writer", ".appliance")


def resolved(path: Path) -> Path:
    """The path of the database file itself, where the given path is a symbolic link to it.

    Raises DatabaseUnusable, with what to do, for:
    - a link of another user;
    - a link in the place of a file beside the database: neither SQLite nor we follow it;
    - a directory or another irregular file, which SQLite calls an I/O error;
    - a file that is mounted by itself: a user of the file in its own directory would look for the
      WAL there.
    """
    if is_foreign_link(path):
        raise DatabaseUnusable(f"{path}: {FOREIGN_LINK}")
    path = real(path)
    if path.is_symlink():
        raise DatabaseUnusable(f"{path}: is a symbolic link to itself; remove it")
    if is_irregular(path):
        kind = "a directory" if path.is_dir() else "no regular file"
        raise DatabaseUnusable(f"{path}: is {kind}; set another [storage] path")
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
    """Type and super options of the file system that holds `path`; "" if none does.

    `mounts` is the text of mountinfo. Of several mounts on the longest mount point the last counts,
    as it hides the others.
    """
    longest, file_system = -1, ("", "")
    for point, kind, options in _mounts(mounts):
        if len(point) >= longest and path.is_relative_to(point):
            longest, file_system = len(point), (kind, options)
    return file_system


def _mountinfo() -> str:
    """The text of mountinfo; "" without /proc, as in a rescue shell's chroot, which only reads."""
    if not MOUNTS.exists():
        return ""
    return MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")


def _mounts(mounts: str) -> Iterator[tuple[str, str, str]]:
    """Mount point, type and super options of each line."""
    for line in filter(None, mounts.split("\n")):
        left, _, right = line.partition(" - ")
        point = OCTAL.sub(lambda match: chr(int(match[1], 8)), left.split(" ")[4])
        kind, _, options = right.split(" ", 2)
        yield point, kind, options


def is_read_only(path: Path) -> bool:
    """Whether the database's file system is mounted read-only, or became so after an error."""
    directory = path.parent.resolve()
    _, options = file_system_of(directory, _mountinfo())
    mounted = os.statvfs(directory).f_flag & os.ST_RDONLY
    return bool(mounted) or "emergency_ro" in options.split(",")


def complaint(path: Path) -> tuple[str, bool]:
    """What is wrong with the place of the database ("": nothing), and whether it is refused."""
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
