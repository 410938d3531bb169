"""The one row about the sink: whether it is UP or DOWN, and when to try again."""

import sqlite3
from dataclasses import asdict

from sensor_node.core.model import SinkStatus
from sensor_node.core.settlement import SinkRecord
from sensor_node.storage.journal import events
from sensor_node.storage.queue import ledger

READ = """
SELECT state, epoch, since, reason, hint, next_probe_at, failures,
       (SELECT sum(n) FROM tally WHERE status IN ('SENT', 'PURGED')), accepted_at_refusal,
       (SELECT sum(n) FROM tally WHERE status = 'SENDING'),
       (SELECT count(*) FROM suspect), (SELECT coalesce(sum(isolated), 0) FROM suspect),
       accepted_at_up, taken_after, futile, throttled, faults, accepted_at_fault
FROM sink
"""
WRITE = """
UPDATE sink
SET state = :state, epoch = :epoch, since = :since, reason = :reason, hint = :hint,
    next_probe_at = :next_probe_at, failures = :failures,
    accepted_at_refusal = :accepted_at_refusal,
    accepted_at_up = :accepted_at_up, taken_after = :taken_after, futile = :futile,
    throttled = :throttled, faults = :faults, accepted_at_fault = :accepted_at_fault
"""
PROBE_NOW = "UPDATE sink SET next_probe_at = :now WHERE state = 'DOWN'"
SINCE_BY_THE_NEW_CLOCK = "UPDATE sink SET since = since + :step WHERE since + :step <= :now"
WAIT_NO_LONGER = """
UPDATE sink SET next_probe_at = min(next_probe_at, :now), next_send_at = min(next_send_at, :now)
"""


def read(connection: sqlite3.Connection) -> SinkRecord:
    row = connection.execute(READ).fetchone()
    return SinkRecord(
        state=SinkStatus(row[0]),
        epoch=row[1],
        since=row[2],
        reason=row[3],
        hint=row[4],
        next_probe_at=row[5],
        failures=row[6],
        accepted_total=row[7],
        accepted_at_refusal=row[8],
        in_flight=row[9],
        suspects=row[10],
        isolated=row[11],
        accepted_at_up=row[12],
        taken_after=row[13],
        futile=bool(row[14]),
        throttled=bool(row[15]),
        faults=row[16],
        accepted_at_fault=row[17],
    )


def write(connection: sqlite3.Connection, sink: SinkRecord) -> None:
    connection.execute(WRITE, asdict(sink))


def record_change(
    connection: sqlite3.Connection, before: SinkRecord, after: SinkRecord, now: float
) -> None:
    """Record an event for UP -> DOWN, for DOWN -> UP, and for another reason while it is DOWN."""
    if before.up and not after.up:
        events.record(connection, now, "sink down", after.reason)
    elif not after.up and after.reason != before.reason:
        events.record(connection, now, "still down", after.reason)
    elif after.up and not before.up:
        backlog = ledger.counts(connection).undelivered
        detail = f"after {max(0.0, now - before.since):.0f} s, backlog {backlog}: {before.reason}"
        events.record(connection, now, "sink up", detail)


def probe_now(connection: sqlite3.Connection, now: float) -> None:
    """Probe a sink that is DOWN now: what was wrong may be repaired."""
    connection.execute(PROBE_NOW, {"now": now})


def clock_set(connection: sqlite3.Connection, step: float, now: float) -> None:
    """The clock was set by `step` seconds; `since` moves with it, so that durations stay true."""
    connection.execute(SINCE_BY_THE_NEW_CLOCK, {"step": step, "now": now})


def wait_no_longer(connection: sqlite3.Connection, now: float) -> None:
    """Let no time lie ahead, as the clock was set back: the waits would be longer by that step."""
    connection.execute(WAIT_NO_LONGER, {"now": now})
