"""A database that has lived long, made at once by SQL, with the triggers at work; and a step meter.

From the bottom: PURGED, then `size` ranges each of SENT, DEAD, IN_DOUBT, FAILED of unknown and of
certain fate (a claim among them), of an isolated sensor and SENT again, two fresh claims, and some
that are PENDING.
"""

from sensor_node.storage.journal import events
from sensor_node.storage.repository import SensorDataSQLRepository

NOW = 1_000_000.0
LATER = NOW + 100_000.0  # all that FAILED is due
PENDING = 50
RANGES = """
WITH RECURSIVE number(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM number WHERE n < :last)
INSERT INTO batch(first_id, last_id, status, attempts, owner, claimed_at, settled_at,
                  next_attempt_at, failure_order, fate_unknown, isolated)
SELECT n, n, :status, :attempts, :owner, n, CASE WHEN :owner IS NULL THEN n END,
       CASE :status WHEN 'FAILED' THEN :due_at + n END,
       CASE :status WHEN 'FAILED' THEN n ELSE 0 END, :fate_unknown, :isolated
FROM number
"""
MESSAGES = """
WITH RECURSIVE number(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM number WHERE n < :last)
INSERT INTO message(id, status, name, value, timestamp_us)
SELECT n, :status, :name, n, n * 1000 FROM number
"""
ISOLATED = "pressure"
SUSPECTS = """
INSERT INTO suspect(name, failures, accepted_at_failure, isolated, since, reason, next_probe_at)
VALUES (:name, 5, 0, 1, 0, '503', :next_probe_at)
"""
STREAMS = """
WITH RECURSIVE number(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM number WHERE n <= :size)
INSERT INTO stream(first_id, name, wire_first, node)
SELECT n, printf('%024x', n), 1, 'edge-01' FROM number
"""


def age(repository: SensorDataSQLRepository, size: int) -> None:
    """Into a database that has nothing but its first run."""
    with repository._transaction() as connection:
        connection.execute(STREAMS, {"size": size})
        top = _purged(connection, size)
        for status, changes in (
            ("SENT", {}),
            ("DEAD", {}),
            ("IN_DOUBT", {"fate_unknown": 1}),
            ("FAILED", {"fate_unknown": 1}),
            ("SENDING", {"attempts": 2, "owner": "retrier"}),
            ("FAILED", {}),
            ("FAILED", {"isolated": ISOLATED}),
            ("SENT", {}),
            ("SENDING", {"owner": "sender-1"}),
            ("SENDING", {"owner": "sender-2"}),
        ):
            count = 1 if status == "SENDING" else size
            top = _lay(connection, top + 1, top + count, status, **changes)
        connection.execute("UPDATE batch SET settled_at = 1 WHERE owner = 'retrier'")
        connection.execute(SUSPECTS, {"name": ISOLATED, "next_probe_at": LATER + 1.0})
        _store(connection, top + 1, top + PENDING, "PENDING")
        for kind in events.KINDS:
            for number in range(min(size, events.MOST_OF_A_KIND)):
                events.record(connection, number * events.CALM_SECONDS, kind, f"{number}")


def _purged(connection, size):
    """Once there were so many messages, which are gone."""
    _store(connection, size, size, "SENT")
    connection.execute("DELETE FROM message")
    connection.execute(
        "INSERT INTO batch(first_id, last_id, status) VALUES (1, ?, 'PURGED')", [size]
    )
    return size


def _lay(connection, first, last, status, *, attempts=1, owner=None, fate_unknown=0, isolated=None):
    """Batch ranges of one message each, and their messages. Returns the highest id."""
    span = {"first": first, "last": last}
    connection.execute(
        RANGES,
        {
            **span,
            "status": status,
            "attempts": attempts,
            "owner": owner,
            "due_at": NOW,
            "fate_unknown": fate_unknown,
            "isolated": isolated,
        },
    )
    _store(connection, first, last, "PENDING" if owner else status, isolated or "temperature")
    return last


def _store(connection, first, last, status, name="temperature"):
    row = {"first": first, "last": last, "status": status, "name": name}
    connection.execute(MESSAGES, row)


class Meter:
    """A connection that counts the steps of SQLite's virtual machine, by execution."""

    def __init__(self, repository):
        self.repository = repository
        self.executions = []  # [statement, steps]
        self._connection = connection = repository._database.connection
        connection.set_progress_handler(self._step, 1)

    def execute(self, sql, *arguments):
        self.executions.append([sql, 0])
        return self._connection.execute(sql, *arguments)

    def executemany(self, sql, *arguments):
        self.executions.append([sql, 0])
        return self._connection.executemany(sql, *arguments)

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def steps(self):
        """All of them together."""
        return sum(steps for _, steps in self.executions)

    def _step(self):
        if self.executions:
            self.executions[-1][1] += 1


def metered(repository: SensorDataSQLRepository) -> Meter:
    """From now on each statement of the repository is counted."""
    meter = Meter(repository)
    repository._database._connection = meter
    return meter
