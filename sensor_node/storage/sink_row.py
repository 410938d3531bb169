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
READ_NEXT_SEND = "SELECT next_send_at FROM sink"
SPEND = """
UPDATE sink SET next_send_at = :seconds +
  CASE WHEN next_send_at BETWEEN :now - :late AND :now THEN next_send_at ELSE :now END
"""
# A claim that comes so much later than it was allowed to costs nothing of the rate: processes
# look for work a few times a second only.
LATE_SECONDS = 0.25


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


def may_send(connection: sqlite3.Connection, now: float, longest: float) -> bool:
    """Whether the rate limit allows a batch now; `longest` is the longest wait it can ask for."""
    (at,) = connection.execute(READ_NEXT_SEND).fetchone()
    return bool(at <= now or at > now + longest)


def spend(connection: sqlite3.Connection, now: float, seconds: float) -> None:
    """A batch that takes `seconds` at the allowed rate was claimed."""
    connection.execute(SPEND, {"now": now, "seconds": seconds, "late": LATE_SECONDS})
