"""Sensors whose readings fail alone, and what is set apart of those that are isolated.

Each function is one step inside a transaction of the caller.
"""

import math
import sqlite3
from dataclasses import asdict
from typing import Any, NamedTuple

from sensor_node.core.isolation import WELL_SECONDS, Suspect, suspect_after, suspect_taken
from sensor_node.core.model import Claim, Outcome, Verdict
from sensor_node.core.settlement import BatchRecord, Probe, Rules, Settlement, SinkRecord
from sensor_node.storage.journal import events
from sensor_node.storage.queue import batch_ranges, due

OF = """
SELECT name, failures, accepted_at_failure, isolated, since, reason, next_probe_at, taken, times
FROM suspect
WHERE name = :name
"""
ISOLATED = """
SELECT name, failures, accepted_at_failure, isolated, since, reason, next_probe_at, taken, times
FROM suspect
WHERE isolated ORDER BY name
"""
PUT = """
INSERT OR REPLACE INTO suspect
  (name, failures, accepted_at_failure, isolated, since, reason, next_probe_at, taken, times)
VALUES (:name, :failures, :accepted_at_failure, :isolated, :since, :reason, :next_probe_at,
        :taken, :times)
"""
AMONG = """
SELECT name, failures, accepted_at_failure, isolated, since, reason, next_probe_at, taken, times
FROM suspect
WHERE name IN (SELECT name FROM message WHERE id BETWEEN :first_id AND :last_id)
"""
CLEAR = "UPDATE suspect SET failures = 0, isolated = 0, taken = 0"
FORGET = "DELETE FROM suspect WHERE name = :name"
FORGET_ISOLATED = "DELETE FROM suspect WHERE name = :name AND isolated"
NAME_OF = "SELECT name FROM message WHERE id = :id"
FIRST_ISOLATED = """
SELECT id, name FROM message
WHERE id BETWEEN :first AND :last AND name IN (SELECT name FROM suspect WHERE isolated)
ORDER BY id LIMIT 1
"""
FIRST_OTHER = """
SELECT id FROM message WHERE id BETWEEN :first AND :last AND name <> :name ORDER BY id LIMIT 1
"""
FIRST_UNSUSPECTED = """
SELECT id FROM message
WHERE id BETWEEN :first AND :last AND name NOT IN (SELECT name FROM suspect WHERE failures > 0)
ORDER BY id LIMIT 1
"""
FIRST_SUSPECTED = """
SELECT id FROM message
WHERE id BETWEEN :first AND :last
  AND name IN (SELECT name FROM suspect WHERE failures > 0 AND NOT isolated)
ORDER BY id LIMIT 1
"""
SET_APART = "UPDATE batch SET isolated = :name WHERE first_id = :first_id AND status = 'FAILED'"
LEAST_RECENTLY_TRIED = """
SELECT failure_order, first_id, last_id FROM batch
WHERE status = 'FAILED' AND isolated = :name AND fate_unknown = :fate ORDER BY failure_order LIMIT 1
"""
# Of which nothing waits to be tried.
GONE = """
SELECT name FROM suspect
WHERE isolated AND next_probe_at < :before
  AND NOT EXISTS (SELECT 1 FROM batch WHERE status = 'FAILED' AND isolated = suspect.name)
LIMIT 1
"""
NEXT_NAME = "SELECT min(isolated) FROM batch WHERE status = 'FAILED' AND isolated > :after"
LET_IN = """
UPDATE batch SET isolated = NULL, failures = 0, next_attempt_at = :now
WHERE first_id IN (SELECT first_id FROM batch
                   WHERE status = 'FAILED' AND isolated = :name LIMIT :most)
"""
WAITING = """
SELECT coalesce(sum(last_id - first_id + 1), 0) FROM batch
WHERE status = 'FAILED' AND isolated = :name
"""
ANY_WAITING = "SELECT 1 FROM batch WHERE status = 'FAILED' AND isolated = :name LIMIT 1"
PUT_OFF = """
UPDATE suspect SET next_probe_at = max(next_probe_at, :until)
WHERE name = (SELECT isolated FROM batch WHERE first_id = :first_id)
"""
PROBE_NOW = "UPDATE suspect SET next_probe_at = min(next_probe_at, :now)"
SINCE_BY_THE_NEW_CLOCK = "UPDATE suspect SET since = since + :step WHERE since + :step <= :now"
# Batch ranges in one transaction.
LET_IN_CHUNK = 5000


class Run(NamedTuple):
    """Neighbouring messages of one isolated sensor, by first and last id."""

    first: int
    last: int
    name: str


def isolated(connection: sqlite3.Connection) -> list[Suspect]:
    return [_suspect(row) for row in connection.execute(ISOLATED)]


def note_outcome(
    connection: sqlite3.Connection,
    claim: Claim,
    before: BatchRecord,
    decided: Settlement,
    sink: SinkRecord,
    outcome: Outcome,
    rules: Rules,
    now: float,
) -> None:
    """What an outcome says about sensors. `before` and `sink`: as they were until now."""
    after = decided.batch
    if outcome.verdict is Verdict.DELIVERED:
        if sink.suspects:
            _taken(connection, claim, now)
    elif outcome.verdict is Verdict.UNSENT:
        connection.execute(PUT_OFF, {"first_id": claim.first_id, "until": decided.next_attempt_at})
    elif after.failures > before.failures if before.isolated else after.alone > before.alone:
        (name,) = connection.execute(NAME_OF, {"id": claim.first_id}).fetchone()
        known = connection.execute(OF, {"name": name}).fetchone()
        suspect = _suspect(known) if known else None
        if suspect and suspect.isolated and not before.isolated:
            return  # claimed before that
        found = suspect_after(suspect, name, sink, outcome, rules.backoff, now)
        _put(connection, found)
        if found.isolated and not before.isolated:
            events.record(connection, now, "sensor isolated", f"{name}: {found.reason}")
            connection.execute(SET_APART, {"name": name, "first_id": claim.first_id})


def first_run(connection: sqlite3.Connection, first: int, last: int) -> Run | None:
    """The first messages of an isolated sensor among these ids."""
    row: dict[str, object] = {"first": first, "last": last}
    found = connection.execute(FIRST_ISOLATED, row).fetchone()
    if found is None:
        return None
    other = connection.execute(FIRST_OTHER, row | {"first": found[0], "name": found[1]}).fetchone()
    return Run(found[0], other[0] - 1 if other else last, found[1])


def first_of_kind(
    connection: sqlite3.Connection, first: int, last: int, probe: Probe
) -> int | None:
    """The first of these messages whose sensor is suspect, but not set apart, or is not suspect."""
    query = FIRST_SUSPECTED if probe is Probe.SUSPECTED else FIRST_UNSUSPECTED
    found = connection.execute(query, {"first": first, "last": last}).fetchone()
    return found[0] if found else None


def put_apart(connection: sqlite3.Connection, run: Run, now: float) -> None:
    """PENDING -> FAILED for a run that begins with the first PENDING message."""
    batch_ranges.insert_failed(connection, run.first, run.last, now)
    connection.execute(SET_APART, {"name": run.name, "first_id": run.first})


def set_apart(connection: sqlite3.Connection, batch_range: tuple[int, int], run: Run) -> None:
    """A run that begins with a FAILED batch range, which is cut after it."""
    batch_ranges.cut(connection, batch_range[0], batch_range[1], run.last)
    connection.execute(SET_APART, {"name": run.name, "first_id": batch_range[0]})


def find_due(
    connection: sqlite3.Connection, now: float, longest: float, *, skip_unknown: bool
) -> tuple[int, int] | None:
    """Of the isolated sensor that is to be tried first, the batch range least recently tried.

    Not while something else is due for longer: else many of them would be all that is tried.
    """
    found = _waiting(connection, now, longest, skip_unknown=skip_unknown)
    if not found or found[0] > 0:
        return None
    is_first = now + found[0] <= due.due_since(connection, now, skip_unknown=skip_unknown)
    return found[1] if is_first else None


def find_any(
    connection: sqlite3.Connection, now: float, longest: float, *, skip_unknown: bool
) -> tuple[int, int] | None:
    """The same, though none is to be tried now."""
    found = _waiting(connection, now, longest, skip_unknown=skip_unknown)
    return found[1] if found else None


def due_in(
    connection: sqlite3.Connection, now: float, longest: float, *, skip_unknown: bool
) -> float:
    """Seconds until find_due() finds a batch range; infinite if there is none."""
    found = _waiting(connection, now, longest, skip_unknown=skip_unknown)
    return max(0.0, found[0]) if found else math.inf


def to_let_in(connection: sqlite3.Connection, now: float) -> str | None:
    """A sensor that is not isolated any more, of which something is still set apart.

    Or one that is isolated, and nothing of which has waited for long.
    """
    names = {suspect.name for suspect in isolated(connection)}
    name = ""
    while name := connection.execute(NEXT_NAME, {"after": name}).fetchone()[0] or "":
        if name not in names:
            return name
    gone = connection.execute(GONE, {"before": now - WELL_SECONDS}).fetchone()
    return gone[0] if gone else None


def let_in(connection: sqlite3.Connection, now: float) -> bool:
    """A chunk of what to_let_in() finds. Whether that was anything."""
    name = to_let_in(connection, now)
    if name is None:
        return False
    connection.execute(LET_IN, {"name": name, "now": now, "most": LET_IN_CHUNK})
    if connection.execute(FORGET_ISOLATED, {"name": name}).rowcount:
        events.record(connection, now, "sensor let in", f"{name}: nothing of it waits")
    return True


def waiting(connection: sqlite3.Connection, name: str) -> int:
    """How many messages of an isolated sensor wait."""
    return int(connection.execute(WAITING, {"name": name}).fetchone()[0])


def clear(connection: sqlite3.Connection) -> None:
    """How often the sink was asked is why it failed, whatever it was asked."""
    connection.execute(CLEAR)


def probe_now(connection: sqlite3.Connection, now: float) -> None:
    """Whatever was wrong may be repaired, or the clock was set back: do not wait."""
    connection.execute(PROBE_NOW, {"now": now})


def clock_set(connection: sqlite3.Connection, step: float, now: float) -> None:
    """The clock was set by `step` seconds: what has lasted has lasted as long as before."""
    connection.execute(SINCE_BY_THE_NEW_CLOCK, {"step": step, "now": now})


def _taken(connection: sqlite3.Connection, claim: Claim, now: float) -> None:
    """The sink takes readings of these sensors."""
    row = {"first_id": claim.first_id, "last_id": claim.last_id}
    for before in [_suspect(found) for found in connection.execute(AMONG, row).fetchall()]:
        waits = connection.execute(ANY_WAITING, {"name": before.name}).fetchone() is not None
        after = suspect_taken(before, waits, now)
        if after.is_forgotten:
            connection.execute(FORGET, {"name": before.name})
        else:
            _put(connection, after)
        if before.isolated and not after.isolated:
            events.record(connection, now, "sensor let in", before.name)
            let_in(connection, now)


def _put(connection: sqlite3.Connection, suspect: Suspect) -> None:
    connection.execute(PUT, asdict(suspect))


def _suspect(row: tuple[Any, ...]) -> Suspect:
    name, failures, accepted_at_failure, is_isolated, *rest = row
    return Suspect(name, failures, accepted_at_failure, bool(is_isolated), *rest)


def _waiting(
    connection: sqlite3.Connection, now: float, longest: float, *, skip_unknown: bool
) -> tuple[float, tuple[int, int]] | None:
    """In how many seconds which batch range of an isolated sensor is to be tried next."""
    found = []
    for suspect in isolated(connection):
        row = {"name": suspect.name}
        batch_range = due.first_of(connection, LEAST_RECENTLY_TRIED, row, skip_unknown=skip_unknown)
        if batch_range:
            # A time further ahead than any that could have been set is a clock that has jumped.
            wait = suspect.next_probe_at - now
            found.append((wait if wait <= longest else 0.0, (batch_range[1], batch_range[2])))
    return min(found, default=None)
