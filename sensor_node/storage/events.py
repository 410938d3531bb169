"""The event table: what happened, for `history`; at most 10,000 rows whatever happens."""

import sqlite3
from dataclasses import dataclass

MOST_EVENTS = 10_000
# These come in floods; the same one again within this time is one event that goes on. Of all
# others, such as starts, stops and outages, each has its own row: their order has a meaning.
MERGED_KINDS = frozenset(
    ("dropped", "evicted", "process died", "reclaimed", "requeued", "salvaged")
)
MERGE_SECONDS = 600.0
MERGE_DEPTH = 20

MERGE = """
UPDATE event SET until = :now, n = n + :n, last = coalesce(:last, last)
WHERE id = (SELECT max(id) FROM event
            WHERE id > (SELECT max(id) FROM event) - :depth
              AND kind = :kind AND detail = :detail AND until BETWEEN :since AND :now)
RETURNING 1
"""
INSERT = """
INSERT INTO event(at, until, kind, detail, n, first, last)
VALUES (:now, :now, :kind, :detail, :n, :first, :last)
"""
TRIM = "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - :most"
SINCE = """
SELECT at, until, kind, detail, n, first, last FROM event WHERE until >= :since ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class EventRow:
    """`at` to `until` in wall seconds; `first`, `last`: ids, or microseconds for `dropped`."""

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
    """Add an event, or let the same one of a moment ago go on, if it is of a kind that does."""
    row = {"now": now, "kind": kind, "detail": detail, "n": n, "first": first, "last": last}
    again = {**row, "since": now - MERGE_SECONDS, "depth": MERGE_DEPTH}
    if kind not in MERGED_KINDS or connection.execute(MERGE, again).fetchone() is None:
        connection.execute(INSERT, row)
        connection.execute(TRIM, {"most": MOST_EVENTS})


def since(connection: sqlite3.Connection, moment: float) -> list[EventRow]:
    """Events that touch the time from `moment` on, oldest first."""
    return [EventRow(*row) for row in connection.execute(SINCE, {"since": moment})]
