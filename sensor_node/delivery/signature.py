"""Whether a file with a secret has been changed, as far as can be told without reading it."""

from collections.abc import Iterable
from pathlib import Path

FileSignature = tuple[int, int, int, int] | None


def signatures(files: Iterable[str]) -> dict[str, FileSignature]:
    """(mtime_ns, ctime_ns, size, inode) of each file, None if there is none: tells a change.

    Who may read it is one as well, and only in the second.
    """
    return {file: _signature(Path(file)) for file in files}


def _signature(file: Path) -> FileSignature:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
