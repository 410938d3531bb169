"""Random walks through the queue: after every step every reading is accounted for (P3, P4, P8).

The machine keeps a plain model of every message's status, stream and fate, and compares. Any
operation may be cut off between two statements, as by a crash; then nothing may have changed.
QUEUE_EXAMPLES=5000 takes a long walk; with CI in the environment the walk is always the same.
"""

import itertools
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sensor_node.model import Dropped, Outcome, Reading, Verdict
from sensor_node.schedule import BackoffPolicy
from sensor_node.settlement import Rules
from sensor_node.storage import ledger, repository, retention, tiles
from sensor_node.storage.connection import open_reader
from sensor_node.storage.repository import ClaimPolicy, SensorDataSQLRepository
from sensor_node.storage.room import Room
from sensor_node.storage.runs import Identity

MEMORY = Path("/dev/shm")
ROOM = Room(max_size=1 << 40, min_free=0)
BACKOFF = BackoffPolicy(initial_delay=1.0, multiplier=2.0, max_delay=60.0)
LONGEST = BACKOFF.longest
OWNERS = ("sender-1", "sender-2", "retrier")
# Small bites, so that a walk of a few steps meets their ends.
BITES = ((repository, "EVICT_BITE", 5), (retention, "TILES_A_BITE", 3), (tiles, "PARK_BITE", 4))
GONE = ("PURGED", "EVICTED")

indexes = st.integers(0, 1000)
limits = st.sampled_from([5, 1, 2, 3, 9, 40])
verdicts = st.sampled_from([*[Verdict.DELIVERED] * 4, *[Verdict.REFUSED] * 3, *Verdict])
outcomes = st.builds(
    Outcome,
    verdicts,
    st.sampled_from(["", "no answer", "503 Busy"]),
    st.just(""),
    answered=st.booleans(),
    fate_known=st.booleans(),
    retry_after=st.none() | st.floats(0, 3600),
)


def of_content(claim):
    """A sink that objects to every seventh message."""
    bad = any(number % 7 == 3 for number in range(claim.first_id, claim.last_id + 1))
    verdict = Verdict.REFUSED if bad else Verdict.DELIVERED
    return Outcome(verdict, "", answered=True, fate_known=True)


class Crash(BaseException):
    """The process ends here."""


class Fuse:
    """A connection that ends the process after so many more statements."""

    def __init__(self, connection):
        self._connection = connection
        self.left = None

    def execute(self, *arguments):
        self._burn()
        return self._connection.execute(*arguments)

    def executemany(self, *arguments):
        self._burn()
        return self._connection.executemany(*arguments)

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def _burn(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None  # the ROLLBACK is the database's own
                raise Crash


class Queue(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.bites = [(module, name, getattr(module, name)) for module, name, _ in BITES]
        for module, name, value in BITES:
            setattr(module, name, value)
        self.now = 1_000_000.0
        self.captured_us = 0
        self.at_most_once = False
        self.max_attempts = 0
        self.node, self.machine = "node-0", "machine-0"
        self.status = {}  # id -> status: the model
        self.reading = {}  # id -> Reading
        self.wire = {}  # id -> (stream's name, number, node)
        self.unknown = set()  # ids whose fate was once unknown, until a person requeues them
        self.failed_at = {}  # id -> order of its last failure
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
        self.repository._database.connection = self.fuse

    def begin_run(self):
        who = Identity(self.machine, self.node, {})
        self.repository.begin_run(who, self.now, resumed=False)

    def teardown(self):
        self.reader.close()
        self.repository.close()
        shutil.rmtree(self.directory)
        for module, name, value in self.bites:
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
        return self.repository.backlog().sink

    def ids(self, *statuses):
        return [number for number, status in self.status.items() if status in statuses]

    def rows(self, sql, **values):
        return self.reader.execute(sql, values).fetchall()

    def tiles(self):
        sql = "SELECT first_id, last_id, status FROM batch ORDER BY first_id"
        return [(range(first, last + 1), status) for first, last, status in self.rows(sql)]

    def dump(self):
        names = self.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")
        return {name: self.rows(f"SELECT * FROM {name}") for (name,) in names}

    def stored(self):
        """The status of every message that was ever captured, from the database alone."""
        found = {number: status for tile, status in self.tiles() for number in tile}
        [(captured,)] = self.rows(tiles.CAPTURED)
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
        assert {claim.round} == {self.rounds[number] for number in ids}
        sink = self.sink
        assert (claim.epoch, claim.probe) == (sink.epoch, not sink.up)
        messages = self.repository.read_claim(claim)
        assert [message.id for message in messages] == list(ids)
        assert [Reading(*message[1:]) for message in messages] == [self.reading[i] for i in ids]
        self.live.append(claim)

    def lost(self, claim):
        self.live.remove(claim)
        self.stale.append(claim)

    # Capture

    @rule(
        count=st.sampled_from([8, 3, 1, 0, 20]),
        drops=st.sampled_from([0, 0, 0, 1, 2]),
        turn=st.sampled_from(["same", "same", "same", "new stream", "new node"]),
    )
    def capture(self, count, drops, turn):
        if turn == "new stream":
            self.begin_a_new_stream()
        elif turn == "new node":
            self.rename_the_node()
        times = [self.captured_us + i * 1000 for i in range(count)]
        readings = [Reading(f"name {us % 7}", us / 7, us) for us in times]
        dropped = [Dropped(f"reason {i}", 5, 0, 1) for i in range(drops)]
        if self.do(self.repository.capture, readings, dropped, self.now, ROOM):
            self.dropped += 5 * drops
            for reading in readings:
                number = len(self.status) + 1
                self.status[number] = "PENDING"
                self.reading[number] = reading
                self.wire[number] = (self.stream, self.next_number, self.node)
                self.next_number += 1
            self.captured_us += 1000 * count

    @initialize()
    def first_stream(self):
        [(self.stream,)] = self.rows("SELECT name FROM stream")
        self.next_number = 1

    def capture_without_room(self):
        full = Room(0, 0)
        assert not self.do(self.repository.capture, [Reading("x", 1.0, 1)], [], self.now, full)

    def begin_a_new_stream(self):
        if stream := self.do(self.repository.new_stream, self.now):
            self.stream, self.next_number = stream.name, 1

    def rename_the_node(self):
        self.node = f"node-{int(self.node[5:]) + 1}"
        self.begin_run()

    def clone_the_machine(self):
        self.machine = f"machine-{int(self.machine[8:]) + 1}"
        self.begin_run()
        [(self.stream,)] = self.rows("SELECT name FROM stream ORDER BY first_id DESC LIMIT 1")
        self.next_number = 1

    # Claims

    def owner(self, index):
        """A living process; a dead one's place is taken by another."""
        name = OWNERS[index % len(OWNERS)]
        return f"{name}:boot:{sum(name in owner for owner in self.dead_owners)}:1"

    def fresh_range(self, limit):
        """The oldest pending messages, as far as stream and node are the same."""
        pending = self.ids("PENDING")[:limit]
        return [i for i in pending if self.wire[i][::2] == self.wire[pending[0]][::2]]

    @precondition(lambda self: self.ids("PENDING"))
    @rule(index=indexes, limit=limits)
    def claim_fresh(self, index, limit):
        expected = self.fresh_range(limit) if self.sink.up else []
        crashing = self.cut is not None
        claim = self.do(
            self.repository.claim_fresh, self.owner(index), self.policy, self.now, limit
        )
        if claim:
            assert list(range(claim.first_id, claim.last_id + 1)) == expected
            self.claimed(claim, "PENDING")
        else:
            assert crashing or not expected

    def failed_tiles(self):
        sql = "SELECT first_id, last_id, next_attempt_at FROM batch WHERE status = 'FAILED'"
        found = [(range(first, last + 1), at) for first, last, at in self.rows(sql)]
        if self.at_most_once:
            found = [(tile, at) for tile, at in found if self.unknown.isdisjoint(tile)]
        return found

    @precondition(lambda self: self.ids("FAILED"))
    @rule(index=indexes, limit=st.just(1))
    def claim_due(self, index, limit):
        due = {tile: at for tile, at in self.failed_tiles() if at <= self.now}
        overdue = {tile: at for tile, at in self.failed_tiles() if at > self.now + LONGEST}
        up, crashing = self.sink.up, self.cut is not None
        if not crashing:
            assert self.repository.is_due(self.policy, self.now) == bool(due or overdue)
        claim = self.do(self.repository.claim_due, self.owner(index), self.policy, self.now)
        if claim:
            tile = range(claim.first_id, claim.last_id + 1)
            assert up
            assert due[tile] == min(due.values()) if due else tile in overdue
            self.claimed(claim, "FAILED")
        else:
            assert crashing or not up or not (due or overdue)

    @precondition(lambda self: not self.sink.up)
    @rule(index=indexes, limit=limits)
    def claim_probe(self, index, limit):
        sink, crashing = self.sink, self.cut is not None
        due = sink.next_probe_at <= self.now or sink.next_probe_at > self.now + LONGEST
        fresh = self.fresh_range(1 if sink.refusing else limit)
        failed = [tile for tile, _ in self.failed_tiles()]
        claim = self.do(
            self.repository.claim_probe, self.owner(index), self.policy, self.now, limit
        )
        if claim is None:
            assert crashing or sink.up or not due or not (fresh or failed)
            return
        assert not sink.up and due
        tile = range(claim.first_id, claim.last_id + 1)
        if fresh:
            assert list(tile) == fresh
        else:
            assert self.failed_at[tile[0]] == min(self.failed_at[each[0]] for each in failed)
        self.claimed(claim, "PENDING" if fresh else "FAILED")

    # Settling

    @precondition(lambda self: self.ids("PENDING", "FAILED"))
    @rule(
        limit=limits, wait=st.sampled_from([70.0, 1.0, 0.0]), answers=st.lists(outcomes, min_size=2)
    )
    def work_with_a_mad_sink(self, limit, wait, answers):
        for outcome in answers:
            self.work(limit, wait, lambda claim, outcome=outcome: outcome)

    @precondition(lambda self: self.ids("PENDING", "FAILED"))
    @rule(limit=limits, wait=st.sampled_from([70.0, 1.0, 0.0]), turns=st.integers(3, 15))
    def work_with_a_sink_that_refuses_every_seventh(self, limit, wait, turns):
        for _ in range(turns):
            self.work(limit, wait, of_content)

    def work(self, limit, wait, answer):
        """What a sender or the retrier does, whichever has something to do."""
        before = len(self.live)
        for claim in (self.claim_due, self.claim_fresh, self.claim_probe):
            if len(self.live) == before:
                claim(0, limit)
        if len(self.live) > before:
            self.settle(before, answer(self.live[before]))
        self.now += wait

    @precondition(lambda self: self.live)
    @rule(index=indexes, outcome=outcomes)
    def settle(self, index, outcome):
        claim = self.live[index % len(self.live)]
        ids = range(claim.first_id, claim.last_id + 1)
        before = self.sink
        took = self.do(self.repository.settle, claim, outcome, self.verdicts, self.now)
        if took is None:
            return
        assert took
        self.lost(claim)
        delivered = outcome.verdict is Verdict.DELIVERED
        if not delivered and not outcome.fate_known:
            self.unknown.update(ids)
        self.answers.update(ids if outcome.answered else ())
        status = self.stored()[claim.first_id]
        self.check_halves(ids, must=status == "FAILED" and outcome.verdict is Verdict.REFUSED)
        assert status in self.allowed(ids, outcome)
        self.move(ids, status, "SENDING")
        if status == "FAILED":
            self.fail(ids)
        if len(ids) == 1 and outcome.verdict is Verdict.REFUSED:
            self.refused_at.setdefault(claim.first_id, before.successes)
        after = self.sink
        assert after.epoch == before.epoch + (after.state is not before.state)
        if claim.epoch != before.epoch:
            assert replace(after, successes=before.successes) == before
        assert after.up or not before.up or not delivered

    @precondition(lambda self: self.live)
    @rule(index=indexes, outcome=outcomes, statements=st.integers(0, 15))
    def settle_and_be_cut_off(self, index, outcome, statements):
        self.cut = statements
        self.settle(index, outcome)

    def allowed(self, ids, outcome):
        if outcome.verdict is Verdict.DELIVERED:
            return ["SENT"]
        if self.at_most_once and not outcome.fate_known:
            return ["IN_DOUBT"]
        if len(ids) == 1 and outcome.verdict is Verdict.REFUSED:
            taken = len(self.ids("SENT", "PURGED"))
            refused_at = self.refused_at.get(ids[0])
            return ["DEAD" if refused_at is not None and taken > refused_at else "FAILED"]
        if len(ids) == 1 and outcome.verdict is Verdict.TRY_LATER and outcome.answered:
            enough = 0 < self.max_attempts <= self.answers[ids[0]]
            return ["FAILED", "DEAD"] if enough else ["FAILED"]
        return ["FAILED"]

    @precondition(lambda self: self.live)
    @rule(index=indexes, wait=st.floats(0, 60))
    def give_back(self, index, wait):
        claim = self.live[index % len(self.live)]
        due_at = self.now + wait
        if self.do(self.repository.halve, claim, "too large", due_at, self.now) is None:
            return
        self.lost(claim)
        ids = range(claim.first_id, claim.last_id + 1)
        self.move(ids, "FAILED", "SENDING")
        self.fail(ids)
        self.check_halves(ids, must=True)

    def check_halves(self, ids, *, must):
        """The batch is whole still, or cut in the middle; a lone message cannot be cut."""
        found = [tile for tile, _ in self.tiles() if tile[0] in ids]
        halves = [half for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :]) if half]
        assert found == halves or (found == [ids] and not must)

    @precondition(lambda self: self.stale)
    @rule(index=indexes, outcome=outcomes)
    def settle_what_was_lost(self, index, outcome):
        self.settles_nothing(self.stale[index % len(self.stale)], outcome)

    @precondition(lambda self: self.live)
    @rule(
        index=indexes,
        outcome=outcomes,
        change=st.sampled_from(
            [("owner", "x"), ("attempt", 1), ("attempt", -1), ("first_id", 1), ("last_id", -1)]
        ),
    )
    def settle_what_is_not_ours(self, index, outcome, change):
        name, step = change
        claim = self.live[index % len(self.live)]
        self.settles_nothing(replace(claim, **{name: getattr(claim, name) + step}), outcome)

    def settles_nothing(self, claim, outcome):
        before = self.dump()
        assert not self.repository.settle(claim, outcome, self.verdicts, self.now)
        assert not self.repository.halve(claim, "", self.now, self.now)
        assert self.repository.read_claim(claim) == []
        assert self.dump() == before

    # Dead processes, people, retention

    @precondition(lambda self: self.live)
    @rule(index=indexes)
    def a_process_dies(self, index):
        self.dead_owners.add(self.live[index % len(self.live)].owner)

    @rule()
    def look_for_dead_processes(self):
        held = sorted((claim.first_id, claim.last_id, claim.owner) for claim in self.live)
        assert sorted(self.repository.claims()) == held
        for first_id, last_id, owner in held:
            if owner not in self.dead_owners:
                continue
            n = self.do(
                self.repository.reclaim, first_id, owner, self.now, at_most_once=self.at_most_once
            )
            if n is None:
                continue
            ids = range(first_id, last_id + 1)
            assert n == len(ids)
            [claim] = [claim for claim in self.live if claim.first_id == first_id]
            self.lost(claim)
            self.unknown.update(ids)
            self.move(ids, "IN_DOUBT" if self.at_most_once else "FAILED", "SENDING")
            self.fail(ids)

    @precondition(lambda self: self.at_most_once)
    @rule()
    def park_the_doubtful(self):
        doubtful = self.unknown & set(self.ids("FAILED"))
        n = self.do(self.repository.park_doubtful, self.now)
        moved = self.follow("IN_DOUBT", "FAILED")
        assert n is None or n == len(moved)
        assert n is None or bool(n) == bool(doubtful)
        assert doubtful >= set(moved)

    @precondition(lambda self: self.ids("DEAD", "IN_DOUBT", "SENT"))
    @rule(index=indexes, length=st.integers(1, 6))
    def requeue(self, index, length):
        eligible = self.ids("DEAD", "IN_DOUBT", "SENT")
        first = eligible[index % len(eligible)] + index % 2
        tile = next((tile for tile, _ in self.tiles() if first in tile), range(0))
        ids = [number for number in range(first, first + length) if number in tile]
        takes = bool(ids) and self.status[first] in ("DEAD", "IN_DOUBT", "SENT")
        n = self.do(self.repository.requeue, first, first + length - 1, self.now)
        if n is None:
            return
        assert n == (len(ids) if takes else 0)
        if n:
            self.requeued(ids)

    def requeued(self, ids):
        self.move(ids, "FAILED", "DEAD", "IN_DOUBT", "SENT")
        self.fail(ids)
        self.rounds.update(ids)
        self.unknown.difference_update(ids)
        for number in ids:
            self.refused_at.pop(number, None)
            self.answers.pop(number, None)

    def requeue_all_that_is_parked(self):
        for tile, status in self.tiles():
            if status in ("DEAD", "IN_DOUBT") and len(tile) > 2:
                assert self.repository.requeue(tile[0], tile[-1], self.now) == len(tile)
                self.requeued(tile)

    def evict_the_oldest(self):
        failed, pending = self.ids("FAILED"), self.ids("PENDING")
        tile = next(
            (list(tile) for tile, status in self.tiles() if status == "FAILED"), pending[:5]
        )
        n = self.do(self.repository.evict_oldest, "max_size", self.now)
        moved = self.follow("EVICTED", "FAILED", "PENDING")
        assert moved == ([] if n is None else tile)
        assert n is None or n == len(moved)
        assert not moved or moved[0] == min(failed or pending)

    def evict_what_is_parked(self):
        parked = [list(tile) for tile, status in self.tiles() if status in ("DEAD", "IN_DOUBT")]
        n = self.do(self.repository.evict_parked, "parked", self.now)
        moved = self.follow("EVICTED", "DEAD", "IN_DOUBT")
        assert moved == (parked[0] if parked and n is not None else [])
        assert n is None or n == len(moved)

    def evict_what_is_old(self):
        age = self.failures % 40
        limit = max(0, self.captured_us - age * 1000)
        n = self.do(self.repository.evict_older_than, limit, self.now)
        moved = self.follow("EVICTED", "FAILED", "PENDING")
        assert n is None or n == len(moved)
        assert all(self.reading[number].timestamp_us < limit for number in moved)
        if n == 0 and (waiting := self.ids("FAILED") or self.ids("PENDING")):
            assert self.reading[waiting[0]].timestamp_us >= limit

    @rule(after=indexes, age=st.none() | st.floats(-10, 100))
    def purge(self, after, age):
        after %= len(self.status) + 1
        settled_before = None if age is None else self.now - age
        sql = "SELECT first_id, last_id FROM batch WHERE status = 'SENT' AND settled_at > :before"
        young = self.rows(sql, before=float("inf") if age is None else settled_before)
        kept = {number for first, last in young for number in range(first, last + 1)}
        purged = self.do(self.repository.purge, after, settled_before, self.now)
        moved = self.follow("PURGED", "SENT")
        assert purged is None or purged.messages == len(moved)
        assert kept.isdisjoint(moved) and all(number > after for number in moved)

    def purge_everything(self):
        cursor = 0
        while cursor is not None:
            cursor = self.repository.purge(cursor, None, self.now).cursor
        self.follow("PURGED", "SENT")
        assert self.ids("SENT") == []

    # The world around

    @rule(seconds=st.sampled_from([0.5, 5.0, 70.0, 400.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(seconds=st.sampled_from([-1e6, -5000.0, -60.0, -1.0, 5000.0, 1e6]))
    def the_clock_steps(self, seconds):
        self.now += seconds

    @rule(statements=st.integers(0, 12))
    def the_next_operation_is_cut_off(self, statements):
        self.cut = statements

    def another_mode_of_delivery(self):
        self.at_most_once = not self.at_most_once

    def another_limit_of_attempts(self):
        self.max_attempts = (self.max_attempts + 1) % 4

    def a_secret_changes(self):
        self.repository.probe_now(self.now)

    def checkpoint(self):
        self.repository.checkpoint(truncate=len(self.status) % 2 == 0)

    def reopen(self):
        self.open()

    @rule(
        change=st.sampled_from(
            [
                capture_without_room,
                evict_the_oldest,
                evict_what_is_parked,
                evict_what_is_old,
                begin_a_new_stream,
                rename_the_node,
                clone_the_machine,
                requeue_all_that_is_parked,
                purge_everything,
                another_mode_of_delivery,
                another_limit_of_attempts,
                a_secret_changes,
                checkpoint,
                reopen,
            ]
        )
    )
    def what_happens_now_and_then(self, change):
        change(self)

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
    def the_tiles_have_no_hole_and_no_overlap(self):
        covered = [number for tile, _ in self.tiles() for number in tile]
        assert covered == list(range(1, len(covered) + 1))
        kinds = [status for _, status in self.tiles()]
        for left, right in itertools.pairwise(kinds):
            assert left != right or left not in GONE, "neighbours that are gone melt"

    @invariant()
    def no_message_is_in_two_live_batches(self):
        held = [range(claim.first_id, claim.last_id + 1) for claim in self.live]
        numbers = [number for tile in held for number in tile]
        assert len(numbers) == len(set(numbers))
        assert sorted(numbers) == sorted(self.ids("SENDING"))
        assert {tile for tile, status in self.tiles() if status == "SENDING"} == set(held)

    @invariant()
    def ids_on_the_wire_are_unique_and_without_gaps(self):
        numbers = {}
        for name, number, _ in self.wire.values():
            numbers.setdefault(name, []).append(number)
        for found in numbers.values():
            assert found == list(range(1, len(found) + 1))


Queue.TestCase.settings = settings(
    max_examples=int(os.environ.get("QUEUE_EXAMPLES", "200")),
    stateful_step_count=50,
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestRandomWalksThroughTheQueue = Queue.TestCase
