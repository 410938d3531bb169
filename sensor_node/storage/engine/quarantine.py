"""Puts a damaged database into quarantine: renames it and its WAL, and deletes no readings.

A crash at any moment leaves the two under names that belong together. Only second names of a file
are removed, and the -shm file, which SQLite makes anew. The caller has the write lock. See
docs/adr/0011.
"""

import calendar
import contextlib
import errno
import glob
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from sensor_node.core.clock import utc_of
from sensor_node.storage.engine import home

STAMP = "%Y%m%dT%H%M%SZ"
NAME_END = re.compile(r"\.damaged-(\d{8}T\d{6}Z)")
# A dying card must not fill the disk with damaged databases: each wait is twice the one before.
AGAIN_SECONDS = 600.0
MOST_AGAIN_SECONDS = 86_400.0
LOOK_SECONDS = 5.0
LOOK_BYTES = 1024 * 1024


def files(database: Path) -> list[Path]:
    """The databases in quarantine beside this one, oldest first."""
    return sorted(file for file in _beside(database, "") if _stamp(database, file))


def wal_of(database: Path) -> Path:
    return database.with_name(database.name + "-wal")


def shm_of(database: Path) -> Path:
    return database.with_name(database.name + "-shm")


def file_id(database: Path) -> tuple[int, int] | None:
    """Device and inode of the file that has this name; None if there is none. Opens nothing."""
    try:
        status = database.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def withheld(database: Path, files: contextlib.ExitStack) -> str:
    """Why the disk does not give the data of the file or its WAL; "" if it does.

    SQLite calls both this and real damage by one name. The files are read for LOOK_SECONDS at most.
    They stay open in `files`: a caller that has a connection closes it before it closes `files`.
    """
    deadline = time.monotonic() + LOOK_SECONDS
    for name in filter(Path.exists, (database, wal_of(database))):
        try:
            file = files.enter_context(name.open("rb", buffering=0))
            offset = 0
            while time.monotonic() < deadline and os.pread(file.fileno(), LOOK_BYTES, offset):
                offset += LOOK_BYTES
        except OSError as error:
            return os.strerror(error.errno or 0)
    return ""


def move(database: Path, now: float) -> Path | None:
    """Put the database and its WAL into quarantine. Returns the new name of the database.

    None if it is too soon after the last time, or a file has that name. `now` is wall seconds.
    Raises OSError if the directory cannot be written. The caller closes its connection afterwards:
    SQLite moves the WAL into the file when the last one closes, unless the name has gone.
    """
    quarantined = _name(database, now)
    if not is_time(database, now) or quarantined.exists() or wal_of(quarantined).exists():
        return None
    # The WAL gets its new name before the database loses its old one. So a crash between the next
    # lines leaves them together. A file system without links has that gap.
    with contextlib.suppress(OSError):
        os.link(wal_of(database), wal_of(quarantined))
    database.rename(quarantined)
    _remove_wal(database, wal_of(quarantined))
    home.note(quarantined)
    return quarantined


def clear(database: Path, now: float) -> Path | None:
    """Before a database is made, remove the WAL and the -shm file of an earlier one.

    Otherwise SQLite would delete that WAL, or read both as the new database's. Returns the name in
    quarantine of a WAL that had no second name yet. `now` is wall seconds. Raises OSError if the
    directory cannot be written.
    """
    if database.exists() or not (wal_of(database).exists() or shm_of(database).exists()):
        return None
    return _remove_wal(database, wal_of(_name(database, now)))


def is_time(database: Path, now: float) -> bool:
    """Whether the last quarantine is long enough ago for another; `now` is wall seconds.

    It goes by the names of the files, so a restart does not shorten the wait. A clock that was set
    back does not lengthen it.
    """
    before = files(database)
    if not before:
        return True
    wait = min(MOST_AGAIN_SECONDS, AGAIN_SECONDS * 2.0 ** (len(before) - 1))
    moved_at = calendar.timegm(time.strptime(_stamp(database, before[-1]), STAMP))
    return abs(now - moved_at) >= wait


def _remove_wal(database: Path, quarantined: Path) -> Path | None:
    """Take the WAL's old name away, and the -shm file; rename a WAL that has no second name.

    Returns the new name of a WAL that was renamed. Raises OSError rather than leave a WAL where a
    fresh database would find it.
    """
    wal, renamed = wal_of(database), None
    if wal.exists():
        if any(wal.samefile(name) for name in _beside(database, "-wal")):
            wal.unlink()
        elif quarantined.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(quarantined))
        else:
            renamed = wal.rename(quarantined)
    shm_of(database).unlink(missing_ok=True)
    directory = os.open(database.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return renamed


def _beside(database: Path, ending: str) -> Iterator[Path]:
    """Files in quarantine beside it; the database's own name may be any, such as `a[1]*.db`."""
    return database.parent.glob(f"{glob.escape(database.name)}.damaged-*{ending}")


def _stamp(database: Path, file: Path) -> str:
    """When the file was put into quarantine; "" if its name does not tell."""
    match = NAME_END.fullmatch(file.name.removeprefix(database.name))
    return match[1] if match else ""


def _name(database: Path, now: float) -> Path:
    """The name that a database gets in quarantine at that wall time."""
    return database.with_name(f"{database.name}.damaged-{utc_of(now).strftime(STAMP)}")
