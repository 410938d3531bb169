"""Sensors whose readings fail alone, and the readings of isolated sensors, which wait apart.

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
# Nothing of these sensors waits, so no probe can let them in.
WITHOUT_READINGS = """
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


class IsolatedRange(NamedTuple):
    """Consecutive messages of one isolated sensor: the first id, the last id, the sensor."""

    first: int
    last: int
    sensor: str


class SensorProbe(NamedTuple):
    """A probe of an isolated sensor: the seconds until it is due, and ids to take one message of.

    `wait` is negative if the probe has been due for so long.
    """

    wait: float
    batch_range: tuple[int, int]


def isolated(connection: sqlite3.Connection) -> list[Suspect]:
    """The sensors that are isolated, by name."""
    return [_suspect(row) for row in connection.execute(ISOLATED)]


def record_outcome(
    connection: sqlite3.Connection,
    claim: Claim,
    before: BatchRecord,
    decided: Settlement,
    sink: SinkRecord,
    outcome: Outcome,
    rules: Rules,
    now: float,
) -> None:
    """Count for or against the sensors of a claim what came of it.

    `before` and `sink`: the batch and the sink before this outcome.
    """
    after = decided.batch
    if before.isolated:
        has_failed_alone = after.failures > before.failures
    else:
        has_failed_alone = after.alone > before.alone  # for the first time
    if outcome.verdict is Verdict.DELIVERED:
        if sink.suspects:
            _record_taken(connection, claim, now)
    elif outcome.verdict is Verdict.UNSENT:
        connection.execute(PUT_OFF, {"first_id": claim.first_id, "until": decided.next_attempt_at})
    elif has_failed_alone:
        (name,) = connection.execute(NAME_OF, {"id": claim.first_id}).fetchone()
        row = connection.execute(OF, {"name": name}).fetchone()
        known = _suspect(row) if row else None
        if known and known.isolated and not before.isolated:
            return  # this batch was claimed before the sensor was set apart
        suspect = suspect_after(known, name, sink, outcome, rules.backoff, now)
        _put(connection, suspect)
        if suspect.isolated and not before.isolated:
            events.record(connection, now, "sensor isolated", f"{name}: {suspect.reason}")
            connection.execute(SET_APART, {"name": name, "first_id": claim.first_id})


def first_isolated_range(
    connection: sqlite3.Connection, first: int, last: int
) -> IsolatedRange | None:
    """Of these ids, the first that is of an isolated sensor, with what follows of that sensor."""
    row = connection.execute(FIRST_ISOLATED, {"first": first, "last": last}).fetchone()
    if row is None:
        return None
    first, sensor = row
    ids = {"first": first, "last": last, "name": sensor}
    other = connection.execute(FIRST_OTHER, ids).fetchone()
    return IsolatedRange(first, other[0] - 1 if other else last, sensor)


def first_of_probe_kind(
    connection: sqlite3.Connection, first: int, last: int, probe: Probe
) -> int | None:
    """The first of these ids that `probe` asks for.

    Probe.SUSPECTED: its sensor is suspect, but not isolated. Else: its sensor is not suspect.
    """
    query = FIRST_SUSPECTED if probe is Probe.SUSPECTED else FIRST_UNSUSPECTED
    row = connection.execute(query, {"first": first, "last": last}).fetchone()
    return row[0] if row else None


def set_apart_pending(
    connection: sqlite3.Connection, isolated_range: IsolatedRange, now: float
) -> None:
    """PENDING -> FAILED, to wait for their sensor; they begin with the first PENDING message."""
    first, last, sensor = isolated_range
    batch_ranges.insert_failed(connection, first, last, now)
    connection.execute(SET_APART, {"name": sensor, "first_id": first})


def set_apart_failed(
    connection: sqlite3.Connection, batch_range: tuple[int, int], isolated_range: IsolatedRange
) -> None:
    """Let the beginning of a FAILED batch range wait for its sensor; cut off the rest."""
    batch_ranges.cut(connection, *batch_range, isolated_range.last)
    connection.execute(SET_APART, {"name": isolated_range.sensor, "first_id": batch_range[0]})


def find_due(
    connection: sqlite3.Connection, now: float, longest: float, *, skip_unknown: bool
) -> tuple[int, int] | None:
    """Of the isolated sensor whose probe is due first, the batch range least recently tried.

    None while something else has been due for longer: else, with many isolated sensors, their
    probes would be all that is sent.
    """
    probe = _next_probe(connection, now, longest, skip_unknown=skip_unknown)
    if not probe or probe.wait > 0:
        return None
    is_first = now + probe.wait <= due.due_since(connection, now, skip_unknown=skip_unknown)
    return probe.batch_range if is_first else None


def find_any(
    connection: sqlite3.Connection, now: float, longest: float, *, skip_unknown: bool
) -> tuple[int, int] | None:
    """Of the isolated sensor whose probe is due first, the same, due or not."""
    probe = _next_probe(connection, now, longest, skip_unknown=skip_unknown)
    return probe.batch_range if probe else None


def due_in(
    connection: sqlite3.Connection, now: float, longest: float, *, skip_unknown: bool
) -> float:
    """Seconds until the next probe of an isolated sensor is due; infinite if there is none."""
    probe = _next_probe(connection, now, longest, skip_unknown=skip_unknown)
    return max(0.0, probe.wait) if probe else math.inf


def next_to_let_in(connection: sqlite3.Connection, now: float) -> str | None:
    """The name of a sensor that let_in() has to do something about.

    It is not isolated any more, but readings of it are still set apart. Or it is isolated, but no
    reading of it waits, and its probe has been due for WELL_SECONDS.
    """
    isolated_names = {suspect.name for suspect in isolated(connection)}
    name = ""
    while name := connection.execute(NEXT_NAME, {"after": name}).fetchone()[0] or "":
        if name not in isolated_names:
            return name
    row = connection.execute(WITHOUT_READINGS, {"before": now - WELL_SECONDS}).fetchone()
    return row[0] if row else None


def let_in(connection: sqlite3.Connection, now: float) -> bool:
    """Let in a chunk of the sensor that next_to_let_in() names. Returns whether there was one."""
    name = next_to_let_in(connection, now)
    if name is None:
        return False
    connection.execute(LET_IN, {"name": name, "now": now, "most": LET_IN_CHUNK})
    if connection.execute(FORGET_ISOLATED, {"name": name}).rowcount:
        events.record(connection, now, "sensor let in", f"{name}: nothing of it waits")
    return True


def count_waiting(connection: sqlite3.Connection, name: str) -> int:
    """How many messages of an isolated sensor are set apart."""
    return int(connection.execute(WAITING, {"name": name}).fetchone()[0])


def clear(connection: sqlite3.Connection) -> None:
    """No sensor is isolated, and no failure counts any more.

    For a sink that failed because it was asked too often: what it was asked did not matter.
    """
    connection.execute(CLEAR)


def probe_now(connection: sqlite3.Connection, now: float) -> None:
    """Probe each isolated sensor now: what was wrong may be repaired, or the clock was set back."""
    connection.execute(PROBE_NOW, {"now": now})


def clock_set(connection: sqlite3.Connection, step: float, now: float) -> None:
    """The clock was set by `step` seconds; `since` moves with it, so that durations stay true."""
    connection.execute(SINCE_BY_THE_NEW_CLOCK, {"step": step, "now": now})


def _record_taken(connection: sqlite3.Connection, claim: Claim, now: float) -> None:
    """The sink has taken this claim: that speaks for the suspect sensors in it."""
    row = {"first_id": claim.first_id, "last_id": claim.last_id}
    for before in map(_suspect, connection.execute(AMONG, row).fetchall()):
        any_waits = connection.execute(ANY_WAITING, {"name": before.name}).fetchone() is not None
        after = suspect_taken(before, any_waits, now)
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


def _next_probe(
    connection: sqlite3.Connection, now: float, longest: float, *, skip_unknown: bool
) -> SensorProbe | None:
    """The probe of an isolated sensor that is due first."""
    probes = []
    for suspect in isolated(connection):
        row = {"name": suspect.name}
        batch = due.first_of(connection, LEAST_RECENTLY_TRIED, row, skip_unknown=skip_unknown)
        if batch:
            _, first, last = batch
            # A time further ahead than any wait can be comes of a clock that has jumped: due.
            wait = suspect.next_probe_at - now
            probes.append(SensorProbe(wait if wait <= longest else 0.0, (first, last)))
    return min(probes, default=None)
