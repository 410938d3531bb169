"""The queue as a plain model: every message's status, stream and fate, and what always holds."""

import itertools
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis.stateful import RuleBasedStateMachine, invariant

from sensor_node.core import isolation
from sensor_node.core.schedule import BackoffPolicy
from sensor_node.core.settlement import Rules
from sensor_node.storage import repository
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.journal.runs import NodeIdentity
from sensor_node.storage.queue import (
    ledger,
    message_ids,
    orphans,
    retention,
    suspects,
)
from sensor_node.storage.queue.rate_limit import ClaimPolicy
from sensor_node.storage.repair import check
from sensor_node.storage.repository import SensorDataSQLRepository

MEMORY = Path("/dev/shm")
BACKOFF = BackoffPolicy(initial_delay=1.0, multiplier=2.0, max_delay=60.0)
LONGEST = BACKOFF.longest
# Small chunks, so that a walk of a few steps meets their ends.
BITES = (
    *((repository, "EVICT_CHUNK", 5), (retention, "RANGES_A_CHUNK", 3), (orphans, "PARK_CHUNK", 4)),
    *((isolation, "ENOUGH_FAILURES", 2), (suspects, "LET_IN_CHUNK", 2)),
)
GONE = ("PURGED", "EVICTED")


class Crash(BaseException):
    """The process ends here."""


class Fuse:
    """A connection that ends the process after so many more statements."""

    def __init__(self, connection):
        self._connection = connection
        self.left = None

    def execute(self, sql, *arguments):
        if sql != "ROLLBACK":  # the database's own, which a process that ended leaves to it
            self._burn()
        return self._connection.execute(sql, *arguments)

    def executemany(self, *arguments):
        self._burn()
        return self._connection.executemany(*arguments)

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def __setattr__(self, name, value):
        """The lines for the log are the connection's."""
        own = name in ("_connection", "left")
        object.__setattr__(self if own else self._connection, name, value)

    def _burn(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Crash


class QueueModel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.chunks = [(module, name, getattr(module, name)) for module, name, _ in BITES]
        for module, name, value in BITES:
            setattr(module, name, value)
        self.now = 1_000_000.0
        self.captured_us = 0
        self.at_most_once = False
        self.max_attempts = 0
        self.node = "node-0"
        self.status = {}  # id -> status: the model
        self.reading = {}  # id -> Reading
        self.wire = {}  # id -> (stream's name, number, node)
        self.unknown = set()  # ids whose fate was once unknown, until a person requeues them
        self.failed_at = {}  # id -> order of its last failure
        self.was_apart = set()  # ids that have once been set apart with their sensor
        self.refused_at = {}  # id -> what the sink had taken at its first refusal alone
        self.answers = Counter()  # id -> failures with an answer, since it was requeued
        self.rounds = Counter()
        self.failures = 0
        self.dropped = 0
        self.live = []  # claims that somebody holds
        self.stale = []  # claims that were lost or settled
        self.dead_owners = set()
        self.cut = None  # after how many statements a crash cuts the next operation off
        self.repository = None
        self.path = self.directory / "telemetry.db"
        self.open()
        self.reader = open_reader(self.path)
        self.begin_run()

    def open(self):
        if self.repository:
            self.repository.close()
        self.repository = SensorDataSQLRepository(self.path)
        self.fuse = Fuse(self.repository._database.connection)
        self.repository._database._connection = self.fuse

    def begin_run(self, node=None):
        """Cut off, it has begun nothing, and the one before goes on."""
        who = NodeIdentity(node or self.node, {})
        self.do(self.repository.begin_run, who, self.now, "a run")
        last = "SELECT name, node FROM stream ORDER BY first_id DESC LIMIT 1"
        [(self.stream, self.node)] = self.rows(last)

    def teardown(self):
        check.check_for_damage(
            self.reader, seconds=60.0
        )  # nothing that can come about is taken for damage
        self.reader.close()
        self.repository.close()
        shutil.rmtree(self.directory)
        for module, name, value in self.chunks:
            setattr(module, name, value)

    # Looking

    @property
    def policy(self):
        return ClaimPolicy(100, 0.0, LONGEST, self.at_most_once)

    @property
    def verdicts(self):
        return Rules(BACKOFF, self.at_most_once, self.max_attempts)

    @property
    def sink(self):
        return self.repository.backlog(0.0).sink

    def ids(self, *statuses):
        return [number for number, status in self.status.items() if status in statuses]

    def rows(self, sql, **values):
        return self.reader.execute(sql, values).fetchall()

    def isolated_names(self):
        return {name for (name,) in self.rows("SELECT name FROM suspect WHERE isolated")}

    def batch_ranges(self):
        sql = "SELECT first_id, last_id, status FROM batch ORDER BY first_id"
        return [(range(first, last + 1), status) for first, last, status in self.rows(sql)]

    def dump(self):
        names = self.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")
        return {name: self.rows(f"SELECT * FROM {name}") for (name,) in names}

    def stored(self):
        """The status of every message that was ever captured, from the database alone."""
        found = {
            number: status for batch_range, status in self.batch_ranges() for number in batch_range
        }
        [(captured,)] = self.rows(message_ids.HIGHEST_ID)
        return {number: found.get(number, "PENDING") for number in range(1, captured + 1)}

    # Doing

    def do(self, operation, *arguments, **options):
        """The operation's result; None, and nothing changed, if a crash cut it off."""
        if self.cut is None:
            return operation(*arguments, **options)
        before = self.dump()
        self.fuse.left, self.cut = self.cut, None
        try:
            return operation(*arguments, **options)
        except Crash:
            assert self.dump() == before
            return None
        finally:
            self.fuse.left = None

    def move(self, ids, target, *sources):
        for number in ids:
            assert self.status[number] in sources
            self.status[number] = target

    def follow(self, target, *sources):
        """The model follows the database: messages have moved from `sources` to `target` only."""
        moved = []
        for number, status in self.stored().items():
            if status != self.status[number]:
                assert self.status[number] in sources and status == target, (number, status)
                moved.append(number)
                self.status[number] = status
        return moved

    def fail(self, ids):
        self.failures += 1
        for number in ids:
            self.failed_at[number] = self.failures

    def claimed(self, claim, source):
        """Checks that hold for every claim."""
        ids = range(claim.first_id, claim.last_id + 1)
        for number in ids:
            assert self.status[number] == source
            assert claim.stream.name == self.wire[number][0], "a batch crosses a stream"
            assert claim.stream.number(number) == self.wire[number][1]
            assert claim.stream.node == self.wire[number][2]
            self.status[number] = "SENDING"
        if self.at_most_once:
            assert self.unknown.isdisjoint(ids), "sent although its fate is unknown"
        assert {claim.requeue_count} == {self.rounds[number] for number in ids}
        sink = self.sink
        assert (claim.epoch, claim.probe) == (sink.epoch, not sink.up)
        assert claim.accepted_total == len(self.ids("SENT", "PURGED"))
        messages = self.repository.read_claim(claim)
        assert [message.id for message in messages] == list(ids)
        read = [tuple(message[1:]) for message in messages]
        assert read == [tuple(self.reading[i][:3]) for i in ids]
        self.live.append(claim)

    def lost(self, claim):
        self.live.remove(claim)
        self.stale.append(claim)

    # What always holds

    @invariant()
    def every_reading_is_accounted_for(self):
        assert list(ledger.audit(self.reader)) == []
        counts, number_of = self.repository.counts(), Counter(self.status.values())
        assert counts.captured == len(self.status)
        assert (counts.pending, counts.in_flight) == (number_of["PENDING"], number_of["SENDING"])
        assert (counts.failed, counts.dead) == (number_of["FAILED"], number_of["DEAD"])
        assert (counts.in_doubt, counts.evicted) == (number_of["IN_DOUBT"], number_of["EVICTED"])
        assert (counts.sent - counts.purged, counts.purged) == (
            number_of["SENT"],
            number_of["PURGED"],
        )
        assert counts.dropped == self.dropped

    @invariant()
    def the_database_says_of_every_message_what_the_model_says(self):
        assert self.stored() == self.status
        shown = dict(self.rows("SELECT id, status FROM message_status"))
        assert shown == {
            number: status for number, status in self.status.items() if status not in GONE
        }

    @invariant()
    def a_fate_once_unknown_stays_marked(self):
        sql = "SELECT first_id, last_id, fate_unknown FROM batch WHERE status = 'FAILED'"
        for first, last, unknown in self.rows(sql):
            assert {number in self.unknown for number in range(first, last + 1)} == {bool(unknown)}

    @invariant()
    def what_is_set_apart_is_of_one_sensor(self):
        sql = "SELECT first_id, last_id, isolated FROM batch WHERE isolated IS NOT NULL"
        for first, last, name in self.rows(sql):
            ids = range(first, last + 1)
            assert {self.reading[number].name for number in ids} == {name}
            self.was_apart.update(ids)

    @invariant()
    def the_batch_ranges_have_no_hole_and_no_overlap(self):
        covered = [number for batch_range, _ in self.batch_ranges() for number in batch_range]
        assert covered == list(range(1, len(covered) + 1))
        kinds = [status for _, status in self.batch_ranges()]
        for left, right in itertools.pairwise(kinds):
            assert left != right or left not in GONE, "neighbours that are gone melt"

    @invariant()
    def no_message_is_in_two_live_batches(self):
        held = [range(claim.first_id, claim.last_id + 1) for claim in self.live]
        numbers = [number for batch_range in held for number in batch_range]
        assert len(numbers) == len(set(numbers))
        assert sorted(numbers) == sorted(self.ids("SENDING"))
        assert {
            batch_range for batch_range, status in self.batch_ranges() if status == "SENDING"
        } == set(held)

    @invariant()
    def ids_on_the_wire_are_unique_and_without_gaps(self):
        assert [number for _, number, _ in self.wire.values()] == list(self.wire)

    @invariant()
    def streams_are_kept_for_as_long_as_they_have_messages(self):
        here = {self.wire[number][0] for number in self.status if number not in self.ids(*GONE)}
        found = {name for (name,) in self.rows("SELECT name FROM stream")}
        assert here <= found <= here | {self.stream}
