"""The table `sample`: counts of the last minute of this run, for the rates that `status` shows."""

import sqlite3

from sensor_node.core.model import Counts

# The rates of `status` are over so much time.
KEEP_SECONDS = 60.0
FORGET = "DELETE FROM sample"
ADD = "INSERT OR REPLACE INTO sample(at, captured, sent) VALUES (:at, :captured, :sent)"
LAST = "SELECT captured, sent FROM sample ORDER BY at DESC LIMIT 1"
DELETE_OLD = "DELETE FROM sample WHERE at < :before"
UP_TO = "SELECT at, captured, sent FROM sample WHERE at <= :now ORDER BY at"


def forget(connection: sqlite3.Connection) -> None:
    """Delete the samples of the last run: its clock may have begun anew."""
    connection.execute(FORGET)


def add(connection: sqlite3.Connection, at: float, counts: Counts) -> None:
    """Add a sample if the counts have changed, and delete those older than a minute.

    `at`: CLOCK_BOOTTIME seconds.
    """
    last = connection.execute(LAST).fetchone()
    if last != (counts.captured, counts.sent):
        connection.execute(ADD, {"at": at, "captured": counts.captured, "sent": counts.sent})
        connection.execute(DELETE_OLD, {"before": at - KEEP_SECONDS})


def up_to(connection: sqlite3.Connection, now: float) -> list[tuple[float, int, int]]:
    """CLOCK_BOOTTIME seconds, captured and sent of each sample up to `now`, oldest first."""
    return connection.execute(UP_TO, {"now": now}).fetchall()
