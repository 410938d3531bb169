"""Which ids there are: the highest, the highest claimed, and the stream that each belongs to."""

import sqlite3

from sensor_node.core.model import Stream

HIGHEST_ID = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'message'), 0)"
HIGHEST_CLAIMED_ID = (
    "SELECT coalesce((SELECT last_id FROM batch ORDER BY first_id DESC LIMIT 1), 0)"
)

STREAM_OF = """
SELECT first_id, name, wire_first, node FROM stream
WHERE first_id <= :id ORDER BY first_id DESC LIMIT 1
"""
NEXT_STREAM = "SELECT min(first_id) FROM stream WHERE first_id > :id"
MAX_ID = 2**63 - 1


def highest_id(connection: sqlite3.Connection) -> int:
    """The highest id ever given."""
    return int(connection.execute(HIGHEST_ID).fetchone()[0])


def highest_claimed_id(connection: sqlite3.Connection) -> int:
    """The highest id that a batch range covers."""
    return int(connection.execute(HIGHEST_CLAIMED_ID).fetchone()[0])


def stream_of(connection: sqlite3.Connection, message_id: int) -> Stream:
    """The stream that the message belongs to."""
    return Stream(*connection.execute(STREAM_OF, {"id": message_id}).fetchone())


def end_of_stream(connection: sqlite3.Connection, message_id: int) -> int:
    """The last id of the stream that the message belongs to; MAX_ID if it is the present one."""
    (following,) = connection.execute(NEXT_STREAM, {"id": message_id}).fetchone()
    return MAX_ID if following is None else following - 1
