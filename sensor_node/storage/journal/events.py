"""The event table: what happened, for `history`; at most 10,000 rows whatever happens.

Each kind has a share of its own, so that none pushes out another: a sink that comes and goes all
day must not cost the line about what was lost.
"""

import sqlite3
from dataclasses import dataclass
from typing import Any

# These come in floods; the same one again within a while is one event that goes on.
SAME_GOES_ON = ("dropped", "evicted", "process died", "reclaimed", "requeued", "salvaged")
# Each has its own row: their order and ranges say when the appliance ran, and the log was held.
IN_ORDER = ("started", "stopped", "unclean stop", "not running", "log held", "log free")
# Each has its own row, until there are too many: then the newest goes on until it has been calm.
OTHERS = (
    *("sink down", "sink up", "clock step", "configuration changed"),
    *("database damaged", "database gone", "lock gone", "sensor isolated", "sensor let in"),
    "surplus answer",
)
# One row for each outage, which goes on for as long as that lasts.
OF_AN_OUTAGE = ("still down",)
KINDS = (*SAME_GOES_ON, *IN_ORDER, *OTHERS, *OF_AN_OUTAGE)

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
# How each kind goes on; none that is in order.
AGAIN = {
    **dict.fromkeys(SAME_GOES_ON, SAME_AGAIN),
    **dict.fromkeys(OTHERS, NEWEST_AGAIN),
    **dict.fromkeys(OF_AN_OUTAGE, OUTAGE_AGAIN),
}
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
) -> None:
    """Add an event of one of the KINDS, or let one of a moment ago go on."""
    row = {"now": now, "kind": kind, "detail": detail, "n": n, "first": first, "last": last}
    if not _goes_on(connection, row):
        connection.execute(INSERT, row)
        connection.execute(TRIM, {"kind": kind, "most": MOST_OF_A_KIND})


def since(connection: sqlite3.Connection, moment: float) -> list[EventRow]:
    """Events that touch the time from `moment` on, oldest first."""
    return [EventRow(*row) for row in connection.execute(SINCE, {"since": moment})]


def _goes_on(connection: sqlite3.Connection, row: dict[str, Any]) -> bool:
    again = AGAIN.get(row["kind"])
    if again is None:
        return False
    known = {**row, "since": row["now"] - CALM_SECONDS, "flood": FLOOD}
    return connection.execute(again, known).fetchone() is not None
