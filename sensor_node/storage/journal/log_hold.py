"""What the history says of a program that keeps the log from being emptied."""

import sqlite3
from typing import NamedTuple

HELD, FREE = "log held", "log free"
LAST = """
SELECT at, kind, detail FROM event WHERE id = max(
  coalesce((SELECT max(id) FROM event WHERE kind = :held), 0),
  coalesce((SELECT max(id) FROM event WHERE kind = :free), 0))
"""


class LogHold(NamedTuple):
    """It has lasted `since` then, in wall seconds; `by` whom as seen at its beginning."""

    since: float
    by: str


def standing(connection: sqlite3.Connection) -> LogHold | None:
    """The one that has not ended."""
    row = connection.execute(LAST, {"held": HELD, "free": FREE}).fetchone()
    return LogHold(row[0], row[2]) if row and row[1] == HELD else None
