"""Globally unique ids: a stream gives consecutive local ids a name that no other database has.

A stream begins each time that a process opens the database to capture. If the database was copied,
restored from a backup or cut short, what is captured afterwards has another name. So two readings
never share an id.
"""

import secrets
import sqlite3

from sensor_node.core.model import Stream
from sensor_node.storage.queue import message_ids

LAST = "SELECT first_id, name, wire_first, node FROM stream ORDER BY first_id DESC LIMIT 1"
# Replaces a stream that begins at the same id: nothing was captured under it.
PUT = """
INSERT OR REPLACE INTO stream(first_id, name, wire_first, node, salvaged)
VALUES (:first_id, :name, :wire_first, :node, :salvaged)
"""
END = """
UPDATE stream SET last_id = :first_id - 1
WHERE first_id = (SELECT max(first_id) FROM stream) AND first_id < :first_id
"""
OF_NAME = """
SELECT first_id, wire_first, coalesce(last_id, :captured) FROM stream
WHERE name = :name AND wire_first <= :number ORDER BY wire_first DESC LIMIT 1
"""
# A salvaged stream is never forgotten, so that the same file cannot bring its readings twice.
FORGET = """
DELETE FROM stream
WHERE first_id BETWEEN :first AND :last AND NOT salvaged
  AND EXISTS (SELECT 1 FROM stream AS later WHERE later.first_id > stream.first_id)
  AND NOT EXISTS (SELECT 1 FROM message WHERE id >= stream.first_id AND id <
                    (SELECT min(later.first_id) FROM stream AS later
                     WHERE later.first_id > stream.first_id))
"""
NAME_BYTES = 12  # 96 random bits
MOST_DIGITS = 19  # of a 64-bit id; Python refuses to parse numbers of some thousand digits


def last(connection: sqlite3.Connection) -> Stream | None:
    """The present stream; None if none has begun in this database."""
    row = connection.execute(LAST).fetchone()
    return Stream(*row) if row else None


def begin(connection: sqlite3.Connection, node: str) -> Stream:
    """Begin a new stream with the next id; its numbers on the wire are the local ids."""
    before, first = last(connection), message_ids.highest_id(connection) + 1
    begun = put(connection, Stream(first, secrets.token_hex(NAME_BYTES), first, node))
    if before:
        forget(connection, before.first_id, before.first_id)
    return begun


def put(connection: sqlite3.Connection, stream: Stream, *, salvaged: bool = False) -> Stream:
    """Let ids belong to this stream from its first id on, which no message has yet."""
    connection.execute(END, {"first_id": stream.first_id})
    connection.execute(
        PUT,
        {
            "first_id": stream.first_id,
            "name": stream.name,
            "wire_first": stream.wire_first,
            "node": stream.node,
            "salvaged": int(salvaged),
        },
    )
    return stream


def forget(connection: sqlite3.Connection, first_id: int, last_id: int) -> None:
    """Forget the streams that have no message left, now that these messages are deleted."""
    row = connection.execute(message_ids.STREAM_OF, {"id": first_id}).fetchone()
    # In a damaged file, where rows are missing, the stream of `first_id` may be gone already.
    connection.execute(FORGET, {"first": row[0] if row else first_id, "last": last_id})


def parse(text: str) -> tuple[str, int] | None:
    """Name and number of `STREAM-NUMBER`; the name is empty for a plain number. None: no id."""
    name, dash, number = text.rpartition("-")
    if not number.isdecimal() or len(number) > MOST_DIGITS or bool(dash) != bool(name):
        return None
    return (name, int(number)) if 1 <= int(number) <= message_ids.MAX_ID else None


def local_id(connection: sqlite3.Connection, text: str) -> int | None:
    """The local id for `STREAM-NUMBER`, as the sink knows a message, or for a plain local id.

    None if no message ever had it, or if its stream is forgotten.
    """
    name, number = parse(text) or ("", 0)
    captured = message_ids.highest_id(connection)
    if not name:
        return number if 1 <= number <= captured else None
    query = {"name": name, "number": number, "captured": captured}
    row = connection.execute(OF_NAME, query).fetchone()
    if row is None:
        return None
    first, wire_first, last = row
    message_id = int(number - wire_first + first)
    return message_id if message_id <= last and text == f"{name}-{number}" else None
