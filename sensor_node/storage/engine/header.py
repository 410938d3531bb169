"""Reads a database's header as a plain file, to refuse what is not ours before SQLite opens it.

See https://www.sqlite.org/fileformat.html#the_database_header. A process that has a connection must
not use this module: closing the file drops the locks that SQLite holds for the process.
"""

from pathlib import Path

from sensor_node.core.errors import DatabaseUnusable
from sensor_node.storage.engine import write_lock
from sensor_node.storage.engine.schema import APPLICATION_ID, FOREIGN, TOO_NEW, newest_version

BYTES = 100
MAGIC = b"SQLite format 3\0"
NO_DATABASE = "is not a SQLite database; move it away or set another [storage] path"


def insist_on_ours(path: Path) -> None:
    """Raise DatabaseUnusable for a file that is no database, or another program's.

    Only before our lock files are made beside it. Where they are, such a file is ours and damaged.
    """
    if write_lock.was_made_for(path):
        return
    header = _read(path)
    if header and (len(header) < BYTES or not header.startswith(MAGIC)):
        raise DatabaseUnusable(f"{path}: {NO_DATABASE}")
    schema, application = int.from_bytes(header[40:44]), int.from_bytes(header[68:72])
    if application != APPLICATION_ID and (application or schema):
        raise DatabaseUnusable(f"{path}: {FOREIGN}")


def insist_on_known_schema(path: Path) -> None:
    """Raise DatabaseUnusable if a newer program has used it, without opening it in SQLite."""
    header = _read(path)
    version, application = int.from_bytes(header[60:64]), int.from_bytes(header[68:72])
    if application == APPLICATION_ID and version > newest_version():
        raise DatabaseUnusable(f"{path}: {TOO_NEW.format(version, newest_version())}")


def _read(path: Path) -> bytes:
    """The header; b"" where it cannot be read, as opening the database will say why."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(BYTES)
    except OSError:
        return b""
