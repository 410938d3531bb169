"""How many readings were captured and sent at moments of this run: what rates are made of."""

import sqlite3

from sensor_node.core.model import Counts

SAMPLE_SECONDS = 60.0
FORGET = "DELETE FROM sample"
ADD = "INSERT OR REPLACE INTO sample(at, captured, sent) VALUES (:at, :captured, :sent)"
LAST = "SELECT captured, sent FROM sample ORDER BY at DESC LIMIT 1"
DELETE_OLD = "DELETE FROM sample WHERE at < :before"
UP_TO = "SELECT at, captured, sent FROM sample WHERE at <= :now ORDER BY at"


def forget(connection: sqlite3.Connection) -> None:
    """Those of the run before."""
    connection.execute(FORGET)


def add(connection: sqlite3.Connection, at: float, counts: Counts) -> None:
    """Keep a minute of samples; none is added while nothing changes. `at`: CLOCK_BOOTTIME."""
    last = connection.execute(LAST).fetchone()
    if last != (counts.captured, counts.sent):
        connection.execute(ADD, {"at": at, "captured": counts.captured, "sent": counts.sent})
        connection.execute(DELETE_OLD, {"before": at - SAMPLE_SECONDS})


def up_to(connection: sqlite3.Connection, now: float) -> list[tuple[float, int, int]]:
    """Moment (CLOCK_BOOTTIME seconds), captured and sent, oldest first."""
    return connection.execute(UP_TO, {"now": now}).fetchall()
