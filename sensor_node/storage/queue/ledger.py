"""The counts of messages, which cost the same at any backlog; and their audit."""

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from sensor_node.core.errors import DatabaseDamaged
from sensor_node.core.model import Counts, Dropped
from sensor_node.storage.journal import events
from sensor_node.storage.queue import message_ids

STATUSES = ("SENDING", "FAILED", "SENT", "DEAD", "IN_DOUBT", "PURGED", "EVICTED")
TALLY = "SELECT status, n FROM tally"
DROPPED = "SELECT coalesce(sum(n), 0) FROM dropped"
COUNT_DROPPED = """
INSERT INTO dropped(reason, n) VALUES (:reason, :n)
ON CONFLICT(reason) DO UPDATE SET n = n + :n
"""

AUDIT_RANGES = """
SELECT first_id, last_id, status,
       (SELECT count(*) FROM message WHERE id BETWEEN first_id AND last_id),
       (SELECT count(*) FROM message WHERE id BETWEEN first_id AND last_id
          AND (status = batch.status
               OR batch.status = 'SENDING' AND message.status IN ('PENDING', 'FAILED')))
FROM batch ORDER BY first_id
"""
AUDIT_PENDING = """
SELECT count(*), coalesce(sum(status = 'PENDING'), 0), coalesce(max(id), 0)
FROM message WHERE id > :claimed
"""
INTEGRITY = "PRAGMA integrity_check(5)"


def counts(connection: sqlite3.Connection) -> Counts:
    tally = dict.fromkeys(STATUSES, 0) | dict(connection.execute(TALLY).fetchall())
    captured = message_ids.highest_id(connection)
    return Counts(
        captured=captured,
        pending=captured - message_ids.highest_claimed_id(connection),
        in_flight=tally["SENDING"],
        failed=tally["FAILED"],
        sent=tally["SENT"] + tally["PURGED"],
        dead=tally["DEAD"],
        in_doubt=tally["IN_DOUBT"],
        evicted=tally["EVICTED"],
        dropped=connection.execute(DROPPED).fetchone()[0],
        purged=tally["PURGED"],
    )


def sound_counts(connection: sqlite3.Connection) -> Counts:
    """The counts. Raises DatabaseDamaged if they do not add up."""
    checked = counts(connection)
    if not checked.add_up:
        raise DatabaseDamaged(f"the ledger does not add up: {checked}")
    return checked


def count_dropped(connection: sqlite3.Connection, dropped: Iterable[Dropped], now: float) -> None:
    """Count readings that were never stored, by reason, and record an event for each item."""
    for drop in dropped:
        connection.execute(COUNT_DROPPED, {"reason": drop.reason, "n": drop.count})
        span: dict[str, Any] = {"n": drop.count, "first": drop.first_us, "last": drop.last_us}
        events.record(connection, now, "dropped", drop.reason, **span)


def audit(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield a line for each disagreement of rows, batch ranges and tally; none if P3 holds.

    Reads every row. The caller holds one read transaction around it.
    """
    for (line,) in connection.execute(INTEGRITY):
        if line != "ok":
            yield f"database file: {line}"
    recount: dict[str, int] = {}
    expected_first = 1
    for first, last, status, rows, matching in connection.execute(AUDIT_RANGES):
        if first != expected_first:
            yield f"batch range {first}-{last}: should begin at {expected_first}"
        length = last - first + 1
        if (rows, matching) != ((0, 0) if status in ("PURGED", "EVICTED") else (length, length)):
            contents = f"{rows} rows, {matching} with that status"
            yield f"batch range {first}-{last}: {status}, but has {contents}"
        recount[status] = recount.get(status, 0) + length
        expected_first = last + 1
    claimed, captured = expected_first - 1, message_ids.highest_id(connection)
    row = connection.execute(AUDIT_PENDING, {"claimed": claimed}).fetchone()
    pending = captured - claimed
    if row != (pending, pending, captured if pending else 0):
        yield f"ids {claimed + 1}-{captured}: want {pending} PENDING rows, has {row[1]} of {row[0]}"
    for status, n in connection.execute(TALLY):
        if n != recount.get(status, 0):
            yield f"tally {status}: says {n}, the batch ranges say {recount.get(status, 0)}"
