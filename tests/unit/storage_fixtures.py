"""What the tests of the queue share: readings, outcomes, rules, and looks into the database."""

import contextlib
from dataclasses import replace

from sensor_node.core.model import Outcome, Reading, Verdict
from sensor_node.core.schedule import BackoffPolicy
from sensor_node.core.settlement import Rules
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.journal.runs import NodeIdentity
from sensor_node.storage.queue import ledger, streams
from sensor_node.storage.queue.rate_limit import ClaimPolicy
from sensor_node.storage.queue.room import SizeLimits

ROOM = SizeLimits(max_size=1 << 40, min_free=0)
WHO = NodeIdentity(node="edge-01", settings={})
BACKOFF = BackoffPolicy(initial_delay=1.0, multiplier=2.0, max_delay=300.0)

POLICY = ClaimPolicy(batch_size=100, max_rate=0.0, longest=BACKOFF.longest, at_most_once=False)
POLICY_ONCE = replace(POLICY, at_most_once=True)
RULES = Rules(BACKOFF, at_most_once=False, max_attempts=0)
RULES_ONCE = replace(RULES, at_most_once=True)

DELIVERED = Outcome(Verdict.DELIVERED, "200 OK", answered=True, fate_known=True)
REFUSED = Outcome(Verdict.REFUSED, "400 Bad Request", answered=True, fate_known=True)
BUSY = Outcome(
    Verdict.TRY_LATER, "503 Busy", answered=True, fate_known=True, retry_after=2.0, overloaded=True
)
ERROR = Outcome(Verdict.TRY_LATER, "500 Internal Server Error", answered=True)
UNREACHABLE = Outcome(Verdict.TRY_LATER, "connection refused", fate_known=True)
SILENT = Outcome(Verdict.TRY_LATER, "no answer within 30 s")
UNAUTHORIZED = Outcome(
    Verdict.MISCONFIGURED, "401 Unauthorized", "check [sink] token_file", True, True
)
# Too large, say, or a row of it is missing.
UNSENT = Outcome(Verdict.UNSENT, "cannot be sent", fate_known=True)
FAILURES = (BUSY, ERROR, UNREACHABLE, SILENT, UNAUTHORIZED)


def readings(count, first_us=0, name="temperature"):
    """One a second from `first_us` on; each value tells its place."""
    return [Reading(name, float(i), first_us + i * 1_000_000) for i in range(count)]


def fill(repository, count, first_us=0, now=0.0):
    """Capture, as a run that is begun if the repository is just opened."""
    if repository._begun_on is None:
        repository.begin_run(WHO, now, "a run")
    assert repository.capture(readings(count, first_us), [], now, ROOM)


def new_stream(repository, now=0.0, node="edge-01"):
    """What a generator does each time that it opens the database."""
    repository.begin_run(replace(WHO, node=node), now, "a run")
    with contextlib.closing(open_reader(repository.path)) as connection:
        return streams.last(connection)


def rows(repository, sql, **values):
    """What another process finds in the database."""
    with contextlib.closing(open_reader(repository.path)) as connection:
        return connection.execute(sql, values).fetchall()


def execute(repository, sql, **values):
    """Change the database behind the repository's back."""
    with repository._transaction() as connection:
        connection.execute(sql, values)


def batch_ranges(repository):
    return rows(repository, "SELECT first_id, last_id, status FROM batch ORDER BY first_id")


def batch(repository, first_id, *columns):
    """Some columns of one batch range."""
    found = f"SELECT {', '.join(columns)} FROM batch WHERE first_id = :first"
    [row] = rows(repository, found, first=first_id)
    return row


def statuses(repository):
    """The messages' own statuses, by id."""
    return dict(rows(repository, "SELECT id, status FROM message"))


def dump(repository):
    """Everything in the database, to show that nothing has changed."""
    tables = [
        name for (name,) in rows(repository, "SELECT name FROM sqlite_schema WHERE type = 'table'")
    ]
    return {name: rows(repository, f"SELECT * FROM {name}") for name in tables}


def audit(repository):
    """What `sensor-node-ctl audit` would complain of."""
    with contextlib.closing(open_reader(repository.path)) as connection:
        return list(ledger.audit(connection))


def set_sink(repository, **columns):
    for column, value in columns.items():
        execute(repository, f"UPDATE sink SET {column} = :value", value=value)


def deliver(repository, count, now=0.0):
    """Claim and deliver one fresh batch."""
    claim = repository.claim_fresh("sender", POLICY, now, count)
    assert repository.settle(claim, DELIVERED, RULES, now)
    return claim


def fail(repository, count, now=0.0, due_at=0.0):
    """Leave one fresh batch FAILED without a word about the sink."""
    claim = repository.claim_fresh("sender", POLICY, now, count)
    assert repository.settle(claim, UNREACHABLE, RULES, now)
    execute(
        repository,
        "UPDATE batch SET next_attempt_at = :at WHERE first_id = :first",
        at=due_at,
        first=claim.first_id,
    )
    set_sink(repository, state="UP", failures=0)
    return claim


def park(repository, count, status="DEAD", now=0.0):
    """Leave one fresh batch DEAD or IN_DOUBT."""
    claim = repository.claim_fresh("sender", POLICY, now, count)
    repository.reclaim(claim.first_id, "sender", now, at_most_once=True)
    for table, key in (("batch", "first_id"), ("message", "id")):
        execute(
            repository,
            f"UPDATE {table} SET status = :status WHERE {key} BETWEEN :a AND :b",
            status=status,
            a=claim.first_id,
            b=claim.last_id,
        )
    return claim


def events(repository, kind=None):
    """Kind and detail of every event, or the details of one kind."""
    found = rows(repository, "SELECT kind, detail FROM event ORDER BY id")
    return [row[1] for row in found if row[0] == kind] if kind else found


class LockCounter:
    """A watch of the write lock: how often its process has held it."""

    locked = 0

    def waiting(self):
        """Of no interest."""

    def holding(self):
        self.locked += 1

    def released(self):
        """Of no interest."""
