"""Copies a database whose first page is damaged, and gives the copy the first page of a new one.

Without its first page SQLite finds nothing in a file. The first pages of two databases with the
same schema differ only in the size of the file and in the list of free pages.
"""

import shutil
from pathlib import Path

from sensor_node.storage.engine.connection import PAGE_SIZE, Database
from sensor_node.storage.engine.write_lock import Unwatched

# Every database of ours has this on one of the pages after the first, and hardly any other file.
MARK = b"CREATE TABLE message("
MARK_WITHIN = 64 * PAGE_SIZE
# The number of pages: https://www.sqlite.org/fileformat2.html#the_database_header.
PAGES = slice(28, 32)


def is_ours(path: Path) -> bool:
    """Whether the file is, or once was, a Sensor Node database."""
    with path.open("rb") as file:
        return MARK in file.read(MARK_WITHIN)


def copy_with_new_header(path: Path, directory: Path) -> Path:
    """Returns the copy, which has its WAL beside it in `directory`. Raises OSError without room."""
    copy = directory / path.name
    for suffix in ("", "-wal"):
        if (source := path.with_name(path.name + suffix)).exists():
            shutil.copyfile(source, directory / (path.name + suffix))
    fresh = directory / "fresh.db"
    Database(fresh, Unwatched(), full=False).close()
    page = bytearray(fresh.read_bytes()[:PAGE_SIZE])
    page[PAGES] = (copy.stat().st_size // PAGE_SIZE).to_bytes(4)
    with copy.open("r+b") as file:
        file.write(page)
    return copy
