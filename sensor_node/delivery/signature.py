"""Whether a file with a secret has been changed, as far as can be told without reading it."""

from collections.abc import Iterable
from pathlib import Path

FileSignature = tuple[int, int, int, int] | None


def signatures(files: Iterable[str]) -> dict[str, FileSignature]:
    """(mtime_ns, ctime_ns, size, inode) of each file; None if there is no such file.

    A change of its permissions shows in ctime_ns only.
    """
    return {file: _signature(Path(file)) for file in files}


def _signature(file: Path) -> FileSignature:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
