"""The header of a database, read as any file is: without a connection, or before one.

See https://www.sqlite.org/fileformat.html#the_database_header. A process that has a connection must
not use this: closing the file takes SQLite's locks from it.
"""

from pathlib import Path

from sensor_node.core.errors import DatabaseUnusable
from sensor_node.storage.engine import write_lock
from sensor_node.storage.engine.schema import APPLICATION_ID, FOREIGN, TOO_NEW, newest_version

BYTES = 100
MAGIC = b"SQLite format 3\0"
NO_DATABASE = "is not a SQLite database; move it away or set another [storage] path"


def insist_on_ours(path: Path) -> None:
    """Before anything of ours is made beside it; later, such a file is ours and damaged."""
    if write_lock.was_made_for(path):
        return
    header = _read(path)
    if header and (len(header) < BYTES or not header.startswith(MAGIC)):
        raise DatabaseUnusable(f"{path}: {NO_DATABASE}")
    schema, application = int.from_bytes(header[40:44]), int.from_bytes(header[68:72])
    if application != APPLICATION_ID and (application or schema):
        raise DatabaseUnusable(f"{path}: {FOREIGN}")


def insist_on_known_schema(path: Path) -> None:
    """For who may not even open it. Raises DatabaseUnusable if a newer program has had it."""
    header = _read(path)
    version, application = int.from_bytes(header[60:64]), int.from_bytes(header[68:72])
    if application == APPLICATION_ID and version > newest_version():
        raise DatabaseUnusable(f"{path}: {TOO_NEW.format(version, newest_version())}")


def _read(path: Path) -> bytes:
    """Empty where it cannot be read: opening it will say why."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(BYTES)
    except OSError:
        return b""
