"""The one row about the sink: whether it is UP or DOWN, and when to try again."""

import sqlite3

from sensor_node.model import SinkStatus
from sensor_node.settlement import SinkRecord

READ = """
SELECT state, epoch, since, reason, mend, refusing, next_probe_at, failures,
       (SELECT sum(n) FROM tally WHERE status IN ('SENT', 'PURGED')), refused_successes
FROM sink
"""
WRITE = """
UPDATE sink
SET state = :state, epoch = :epoch, since = :since, reason = :reason, mend = :mend,
    refusing = :refusing, next_probe_at = :next_probe_at, failures = :failures,
    refused_successes = :refused_successes
"""
PROBE_NOW = "UPDATE sink SET next_probe_at = :now WHERE state = 'DOWN'"


def read(connection: sqlite3.Connection) -> SinkRecord:
    row = connection.execute(READ).fetchone()
    return SinkRecord(
        state=SinkStatus(row[0]),
        epoch=row[1],
        since=row[2],
        reason=row[3],
        mend=row[4],
        refusing=bool(row[5]),
        next_probe_at=row[6],
        failures=row[7],
        successes=row[8],
        refused_successes=row[9],
    )


def write(connection: sqlite3.Connection, sink: SinkRecord) -> None:
    connection.execute(
        WRITE,
        {
            "state": sink.state.value,
            "epoch": sink.epoch,
            "since": sink.since,
            "reason": sink.reason,
            "mend": sink.mend,
            "refusing": int(sink.refusing),
            "next_probe_at": sink.next_probe_at,
            "failures": sink.failures,
            "refused_successes": sink.refused_successes,
        },
    )


def probe_now(connection: sqlite3.Connection, now: float) -> None:
    """Whatever was wrong may be mended: do not wait."""
    connection.execute(PROBE_NOW, {"now": now})
