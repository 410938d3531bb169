"""What the history says of a program that keeps the WAL from being emptied."""

import sqlite3
from typing import NamedTuple

HELD, FREE = "log held", "log free"
LAST = """
SELECT at, kind, detail FROM event WHERE id = max(
  coalesce((SELECT max(id) FROM event WHERE kind = :held), 0),
  coalesce((SELECT max(id) FROM event WHERE kind = :free), 0))
"""


class LogHold(NamedTuple):
    """A program keeps the WAL from being emptied."""

    since: float  # wall seconds
    by: str  # the programs that were seen at the beginning


def standing(connection: sqlite3.Connection) -> LogHold | None:
    """The hold that has not ended; None if there is none."""
    row = connection.execute(LAST, {"held": HELD, "free": FREE}).fetchone()
    return LogHold(row[0], row[2]) if row and row[1] == HELD else None
