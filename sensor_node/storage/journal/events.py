"""The table `event`: what happened, for `history`; at most 10,000 rows whatever happens.

Each kind of event has a share of these rows, so that none pushes out another. A sink that comes and
goes all day must not cost the row about what was lost.
"""

import logging
import sqlite3
from dataclasses import dataclass
from typing import Any

from sensor_node.storage.engine import after_commit
from sensor_node.storage.engine.after_commit import Line

MOST_EVENTS = 10_000
MOST_OF_A_KIND = 430
# An event goes on in its row if it happens again within this time.
CALM_SECONDS = 600.0
# If so many of a kind began within CALM_SECONDS, they are a flood: the newest row takes the next.
FLOOD = 20

# Three ways in which an event goes on in its row. `at` to `until` and `first` to `last` span all
# that the row stands for. SAME_AGAIN: the same kind and detail.
SAME_AGAIN = """
UPDATE event SET until = :now, n = n + :n,
  first = coalesce(min(first, :first), first, :first),
  last = coalesce(max(last, :last), last, :last)
WHERE id = (SELECT max(id) FROM event
            WHERE kind = :kind AND detail = :detail AND until BETWEEN :since AND :now)
RETURNING 1
"""
# The same kind, with any detail, in a flood.
NEWEST_AGAIN = """
UPDATE event SET until = :now, n = n + :n, detail = :detail,
  first = coalesce(min(first, :first), first, :first),
  last = coalesce(max(last, :last), last, :last)
WHERE id = (SELECT max(id) FROM event WHERE kind = :kind) AND until BETWEEN :since AND :now
  AND (n > 1 OR (SELECT at FROM event WHERE kind = :kind
                 ORDER BY id DESC LIMIT 1 OFFSET :flood - 1) BETWEEN :since AND :now)
RETURNING 1
"""
# The same kind, with any detail, in the same outage.
OUTAGE_AGAIN = """
UPDATE event SET until = :now, n = n + 1, detail = :detail
WHERE id = (SELECT max(id) FROM event WHERE kind = :kind)
  AND id > (SELECT max(id) FROM event WHERE kind = 'sink down')
RETURNING 1
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """How events of one kind are recorded.

    `again`: the statement by which an event that happens again goes on in its row; None: each has a
    row of its own. `level`: that of its line in the log, as in logging.
    """

    again: str | None
    level: int


# Kinds without `again` say when the node ran, and when the log was held: their order and times must
# stay. The others may come in floods.
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
    """An event, as `history` shows it.

    `at`, `until`: when it began and was last seen, in wall seconds. `n`: how many messages or
    readings, or how often it happened; `detail` tells of the last time. `first`, `last`: ids; for
    `dropped` and `not running`, microseconds since 1970.
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
    """Record an event of one of the KINDS, in a row of its own or in that of an event that goes on.

    The log gets its line when the transaction is committed. With SAME_AGAIN, only the first of them
    has a line. `is_said`: the log has it already.
    """
    values = {"now": now, "kind": kind, "detail": detail, "n": n, "first": first, "last": last}
    again = KINDS[kind].again
    goes_on = again is not None and _continue_event(connection, again, values)
    if not goes_on:
        connection.execute(INSERT, values)
        connection.execute(TRIM, {"kind": kind, "most": MOST_OF_A_KIND})
    if not is_said and (not goes_on or again is not SAME_AGAIN):
        after_commit.keep(connection, Line(KINDS[kind].level, kind, detail))


def since(connection: sqlite3.Connection, moment: float) -> list[EventRow]:
    """Events that touch the time from `moment` on, oldest first."""
    return [EventRow(*row) for row in connection.execute(SINCE, {"since": moment})]


def _continue_event(connection: sqlite3.Connection, again: str, values: dict[str, Any]) -> bool:
    """Add to the row of an event that goes on. False if there is none."""
    parameters = {**values, "since": values["now"] - CALM_SECONDS, "flood": FLOOD}
    return connection.execute(again, parameters).fetchone() is not None
