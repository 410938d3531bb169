"""Whether a file with a secret has been changed, as far as can be told without reading it."""

from collections.abc import Iterable
from pathlib import Path

FileSignature = tuple[int, int, int] | None


def signature(files: Iterable[str]) -> tuple[FileSignature, ...]:
    """(mtime_ns, size, inode) of each file, None if there is none: differs after a change."""
    return tuple(_signature(Path(file)) for file in files)


def _signature(file: Path) -> FileSignature:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
