"""Globally unique ids: a stream names a run of local ids, and a new stream never reuses a name."""

import secrets
import sqlite3

from sensor_node.model import Stream
from sensor_node.storage import tiles

LAST = "SELECT first_id, name, wire_first, node FROM stream ORDER BY first_id DESC LIMIT 1"
# Nothing was captured under a stream that begins where the next one does.
PUT = """
INSERT OR REPLACE INTO stream(first_id, name, wire_first, node)
VALUES (:first_id, :name, :wire_first, :node)
"""
OF_NAME = """
SELECT first_id, name, wire_first, node FROM stream
WHERE name = :name AND wire_first <= :number ORDER BY wire_first DESC LIMIT 1
"""
NAME_BYTES = 12  # 96 random bits
MOST_DIGITS = 19  # of a 64-bit id; Python refuses to read numbers of some thousand


def last(connection: sqlite3.Connection) -> Stream | None:
    row = connection.execute(LAST).fetchone()
    return Stream(*row) if row else None


def last_node(connection: sqlite3.Connection) -> str:
    stream = last(connection)
    return stream.node if stream else ""


def begin(connection: sqlite3.Connection, node: str) -> Stream:
    """From the next captured reading on, ids belong to a new stream."""
    first = tiles.captured(connection) + 1
    return put(connection, Stream(first, secrets.token_hex(NAME_BYTES), 1, node))


def rename_node(connection: sqlite3.Connection, stream: Stream, node: str) -> Stream:
    """From the next captured reading on, the same stream carries another node id."""
    first = tiles.captured(connection) + 1
    return put(connection, Stream(first, stream.name, stream.number(first), node))


def local_id(connection: sqlite3.Connection, text: str) -> int | None:
    """The local id that `STREAM-NUMBER`, or a plain local number, means."""
    name, dash, number = text.rpartition("-")
    if not number.isdecimal() or len(number) > MOST_DIGITS:
        return None
    if int(number) > tiles.MAX_ID:
        return None
    if not dash:
        return int(number)
    row = connection.execute(OF_NAME, {"name": name, "number": int(number)}).fetchone()
    found = int(number) - row[2] + row[0] if row else tiles.MAX_ID
    # Numbers that a stream never came to belong, as local ids, to the next one.
    return (
        found if found < tiles.MAX_ID and tiles.stream_of(connection, found).name == name else None
    )


def put(connection: sqlite3.Connection, stream: Stream) -> Stream:
    """From its first id on, which no message has yet, ids are this stream's."""
    connection.execute(
        PUT,
        {
            "first_id": stream.first_id,
            "name": stream.name,
            "wire_first": stream.wire_first,
            "node": stream.node,
        },
    )
    return stream
