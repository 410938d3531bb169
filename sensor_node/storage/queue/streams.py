"""Globally unique ids: a stream is a name for a run of local ids that nobody else can have.

One begins each time that a process which captures opens the database. So an id is unique whatever
was copied, restored from a backup or cut short: what is captured afterwards has another name.
"""

import secrets
import sqlite3

from sensor_node.core.model import Stream
from sensor_node.storage.queue import message_ids

LAST = "SELECT first_id, name, wire_first, node FROM stream ORDER BY first_id DESC LIMIT 1"
# Nothing was captured under a stream that begins where the next one does.
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
# What salvage brought is remembered, so that the same file brings nothing a second time.
FORGET = """
DELETE FROM stream
WHERE first_id BETWEEN :first AND :last AND NOT salvaged
  AND EXISTS (SELECT 1 FROM stream AS later WHERE later.first_id > stream.first_id)
  AND NOT EXISTS (SELECT 1 FROM message WHERE id >= stream.first_id AND id <
                    (SELECT min(later.first_id) FROM stream AS later
                     WHERE later.first_id > stream.first_id))
"""
NAME_BYTES = 12  # 96 random bits
MOST_DIGITS = 19  # of a 64-bit id; Python refuses to read numbers of some thousand


def last(connection: sqlite3.Connection) -> Stream | None:
    row = connection.execute(LAST).fetchone()
    return Stream(*row) if row else None


def begin(connection: sqlite3.Connection, node: str) -> Stream:
    """From the next captured reading on, ids are of a new stream, numbered as this database's."""
    before, first = last(connection), message_ids.highest_id(connection) + 1
    begun = put(connection, Stream(first, secrets.token_hex(NAME_BYTES), first, node))
    if before:
        forget(connection, before.first_id, before.first_id)
    return begun


def put(connection: sqlite3.Connection, stream: Stream, *, salvaged: bool = False) -> Stream:
    """From its first id on, which no message has yet, ids are this stream's."""
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
    """The streams of which no message is left, now that these messages have gone."""
    row = connection.execute(message_ids.STREAM_OF, {"id": first_id}).fetchone()
    # Where rows are missing, as in a damaged file, a stream may be forgotten already.
    connection.execute(FORGET, {"first": row[0] if row else first_id, "last": last_id})


def parse(text: str) -> tuple[str, int] | None:
    """Name and number of `STREAM-NUMBER`; the name is empty for a plain number. None: no id."""
    name, dash, number = text.rpartition("-")
    if not number.isdecimal() or len(number) > MOST_DIGITS or bool(dash) != bool(name):
        return None
    return (name, int(number)) if 1 <= int(number) <= message_ids.MAX_ID else None


def local_id(connection: sqlite3.Connection, text: str) -> int | None:
    """The local id that `STREAM-NUMBER`, as the sink has it, or a plain local number, means.

    None if no message ever had it, or its stream is forgotten.
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
    found = int(number - wire_first + first)
    return found if found <= last and text == f"{name}-{number}" else None
