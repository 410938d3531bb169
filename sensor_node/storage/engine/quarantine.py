"""Moves a damaged database aside, with its WAL; a crash in between parts nothing for good.

All of it happens under the write lock. Nothing is deleted but second names of a file, and the
-shm file, which SQLite makes anew. See docs/adr/0011.
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
# A dying card must not make the disk a graveyard: each time the next wait is twice as long.
AGAIN_SECONDS = 600.0
MOST_AGAIN_SECONDS = 86_400.0
LOOK_SECONDS = 5.0
LOOK_BYTES = 1024 * 1024


def files(database: Path) -> list[Path]:
    """The damaged databases that lie beside this one, oldest first."""
    return sorted(file for file in _beside(database, "") if _stamp(database, file))


def wal_of(database: Path) -> Path:
    return database.with_name(database.name + "-wal")


def file_id(database: Path) -> tuple[int, int] | None:
    """Which file bears the name; None where there is none. Opens nothing."""
    try:
        found = database.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def withheld(database: Path, files: contextlib.ExitStack) -> str:
    """Why the disk does not give the data of the file or its WAL, which SQLite calls damage, too.

    Empty where it does, as far as can be read in some seconds. Who has a connection must close it
    before it lets go of `files`.
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
    """The new name of the database; None where it is too soon after the last time.

    `now` is wall seconds. Raises OSError where the directory cannot be written. Connections stay
    open meanwhile: SQLite moves the WAL into the file when the last one closes, unless the name
    has gone.
    """
    aside = _name(database, now)
    if not is_time(database, now) or aside.exists() or wal_of(aside).exists():
        return None
    # The WAL has its new name before the database loses its own: whatever happens between the
    # next lines, the two are found together. Some file systems have no links, and that gap.
    with contextlib.suppress(OSError):
        os.link(wal_of(database), wal_of(aside))
    database.rename(aside)
    _take_wal_away(database, wal_of(aside))
    home.note(aside)
    return aside


def clear(database: Path, now: float) -> Path | None:
    """Before a database is made: take what is left of the one before out of its way.

    Otherwise SQLite would delete the WAL, or take it and the -shm file for the new one's. Returns
    where a WAL has gone that nobody had moved yet.
    """
    if database.exists() or not (wal_of(database).exists() or shm_of(database).exists()):
        return None
    return _take_wal_away(database, wal_of(_name(database, now)))


def _take_wal_away(database: Path, kept: Path) -> Path | None:
    """Raises OSError rather than leave a WAL where a fresh database would find it."""
    wal, found = wal_of(database), None
    if wal.exists():
        if any(wal.samefile(name) for name in _beside(database, "-wal")):
            wal.unlink()
        elif kept.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(kept))
        else:
            found = wal.rename(kept)
    shm_of(database).unlink(missing_ok=True)
    directory = os.open(database.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return found


def shm_of(database: Path) -> Path:
    return database.with_name(database.name + "-shm")


def _beside(database: Path, ending: str) -> Iterator[Path]:
    """What is named as after a move; the database's own name may be any, such as `a[1]*.db`."""
    return database.parent.glob(f"{glob.escape(database.name)}.damaged-*{ending}")


def _stamp(database: Path, file: Path) -> str:
    """When the file was moved aside; empty if its name does not say so."""
    found = NAME_END.fullmatch(file.name.removeprefix(database.name))
    return found[1] if found else ""


def _name(database: Path, now: float) -> Path:
    stamp = utc_of(now).strftime(STAMP)
    return database.with_name(f"{database.name}.damaged-{stamp}")


def is_time(database: Path, now: float) -> bool:
    """Whether the last time is long enough ago.

    By the names alone, so that no restart forgets it; a clock that was set is no reason.
    """
    before = files(database)
    if not before:
        return True
    wait = min(MOST_AGAIN_SECONDS, AGAIN_SECONDS * 2.0 ** (len(before) - 1))
    moved_at = calendar.timegm(time.strptime(_stamp(database, before[-1]), STAMP))
    return abs(now - moved_at) >= wait
