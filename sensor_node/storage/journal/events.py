"""The event table: what happened, for `history`; at most 10,000 rows whatever happens.

Each kind has a share of its own, so that none pushes out another: a sink that comes and goes all
day must not cost the line about what was lost.
"""

import logging
import sqlite3
from dataclasses import dataclass
from typing import Any

from sensor_node.storage.engine import after_commit
from sensor_node.storage.engine.after_commit import Line

MOST_EVENTS = 10_000
MOST_OF_A_KIND = 430
CALM_SECONDS = 600.0
# More than so many within that time are a flood.
FLOOD = 20

# `at` to `until` and `first` to `last` span all that the event stands for.
SAME_AGAIN = """
UPDATE event SET until = :now, n = n + :n,
  first = coalesce(min(first, :first), first, :first),
  last = coalesce(max(last, :last), last, :last)
WHERE id = (SELECT max(id) FROM event
            WHERE kind = :kind AND detail = :detail AND until BETWEEN :since AND :now)
RETURNING 1
"""
NEWEST_AGAIN = """
UPDATE event SET until = :now, n = n + :n, detail = :detail,
  first = coalesce(min(first, :first), first, :first),
  last = coalesce(max(last, :last), last, :last)
WHERE id = (SELECT max(id) FROM event WHERE kind = :kind) AND until BETWEEN :since AND :now
  AND (n > 1 OR (SELECT at FROM event WHERE kind = :kind
                 ORDER BY id DESC LIMIT 1 OFFSET :flood - 1) BETWEEN :since AND :now)
RETURNING 1
"""
OUTAGE_AGAIN = """
UPDATE event SET until = :now, n = n + 1, detail = :detail
WHERE id = (SELECT max(id) FROM event WHERE kind = :kind)
  AND id > (SELECT max(id) FROM event WHERE kind = 'sink down')
RETURNING 1
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """`again`: how an event that happens again goes on in its row; None: each has a row.

    `level` of its line in the log.
    """

    again: str | None
    level: int


# The order and the ranges of those without `again` say when the appliance ran, and when the log was
# held. Those that come in floods are one event while the same happens again within a while.
KINDS = {
    "dropped": Kind(SAME_AGAIN, logging.WARNING),
    "evicted": Kind(SAME_AGAIN, logging.WARNING),
    "process died": Kind(SAME_AGAIN, logging.WARNING),
    "reclaimed": Kind(SAME_AGAIN, logging.WARNING),
    "requeued": Kind(SAME_AGAIN, logging.INFO),
    "salvaged": Kind(SAME_AGAIN, logging.INFO),
    "started": Kind(None, logging.INFO),
    "stopped": Kind(None, logging.INFO),
    "unclean stop": Kind(None, logging.WARNING),
    "not running": Kind(None, logging.WARNING),
    "log held": Kind(None, logging.WARNING),
    "log free": Kind(None, logging.INFO),
    "sink down": Kind(NEWEST_AGAIN, logging.WARNING),
    "still down": Kind(OUTAGE_AGAIN, logging.WARNING),
    "sink up": Kind(NEWEST_AGAIN, logging.WARNING),
    "clock step": Kind(NEWEST_AGAIN, logging.WARNING),
    "configuration changed": Kind(NEWEST_AGAIN, logging.INFO),
    "database damaged": Kind(NEWEST_AGAIN, logging.ERROR),
    "database gone": Kind(NEWEST_AGAIN, logging.ERROR),
    "lock gone": Kind(NEWEST_AGAIN, logging.WARNING),
    "sensor isolated": Kind(NEWEST_AGAIN, logging.WARNING),
    "sensor let in": Kind(NEWEST_AGAIN, logging.WARNING),
    "surplus answer": Kind(NEWEST_AGAIN, logging.WARNING),
}
SAME_GOES_ON = tuple(name for name, kind in KINDS.items() if kind.again is SAME_AGAIN)

INSERT = """
INSERT INTO event(at, until, kind, detail, n, first, last)
VALUES (:now, :now, :kind, :detail, :n, :first, :last)
"""
TRIM = """
DELETE FROM event WHERE kind = :kind
  AND id <= (SELECT id FROM event WHERE kind = :kind ORDER BY id DESC LIMIT 1 OFFSET :most)
"""
SINCE = """
SELECT at, until, kind, detail, n, first, last FROM event WHERE until >= :since ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class EventRow:
    """`at` to `until` in wall seconds; `first`, `last`: ids, or microseconds for `dropped`.

    `n` of a kind that does not count readings is how often it happened, the last time as `detail`
    says.
    """

    at: float
    until: float
    kind: str
    detail: str
    n: int
    first: int | None
    last: int | None


def record(
    connection: sqlite3.Connection,
    now: float,
    kind: str,
    detail: str,
    *,
    n: int = 1,
    first: int | None = None,
    last: int | None = None,
    is_said: bool = False,
) -> None:
    """Add an event of one of the KINDS, or let one of a moment ago go on.

    Its line comes into the log when the transaction is committed; of a flood, the first one.
    `is_said`: the log has it already.
    """
    row = {"now": now, "kind": kind, "detail": detail, "n": n, "first": first, "last": last}
    again = KINDS[kind].again
    goes_on = again is not None and _goes_on(connection, again, row)
    if not goes_on:
        connection.execute(INSERT, row)
        connection.execute(TRIM, {"kind": kind, "most": MOST_OF_A_KIND})
    if not is_said and (not goes_on or again is not SAME_AGAIN):
        after_commit.keep(connection, Line(KINDS[kind].level, kind, detail))


def since(connection: sqlite3.Connection, moment: float) -> list[EventRow]:
    """Events that touch the time from `moment` on, oldest first."""
    return [EventRow(*row) for row in connection.execute(SINCE, {"since": moment})]


def _goes_on(connection: sqlite3.Connection, again: str, row: dict[str, Any]) -> bool:
    known = {**row, "since": row["now"] - CALM_SECONDS, "flood": FLOOD}
    return connection.execute(again, known).fetchone() is not None
