"""Random walks through the queue: after every step every reading is accounted for (P3, P4, P8).

The machine keeps a plain model of every message's status, stream and fate, and compares. Any
operation may be cut off between two statements, as by a crash; then nothing may have changed.
QUEUE_EXAMPLES=5000 takes a long walk; with CI in the environment the walk is always the same.
"""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from queue_model import QueueModel
from queue_sending import Sending, indexes

from sensor_node.core.model import DatedReading, Dropped, Reading
from sensor_node.storage.queue.room import SizeLimits

ROOM = SizeLimits(max_size=1 << 40, min_free=0)


class Queue(Sending):
    # Capture

    @rule(
        count=st.sampled_from([8, 3, 1, 0, 20]),
        drops=st.sampled_from([0, 0, 0, 1, 2]),
        turn=st.sampled_from(["same", "same", "same", "another run", "new node"]),
    )
    def capture(self, count, drops, turn):
        if turn == "another run":
            self.begin_run()
        elif turn == "new node":
            self.rename_the_node()
        times = [self.captured_us + i * 1000 for i in range(count)]
        readings = [DatedReading(f"name {us % 7}", us / 7, 10**15 - us, us) for us in times]
        dropped = [Dropped(f"reason {i}", 5, 0, 1) for i in range(drops)]
        stored = self.do(self.repository.capture, readings, dropped, self.now, ROOM)
        if stored is not None:
            assert stored == count
            self.dropped += 5 * drops
            for reading in readings:
                number = len(self.status) + 1
                self.status[number] = "PENDING"
                self.reading[number] = reading
                self.wire[number] = (self.stream, number, self.node)
            self.captured_us += 1000 * count

    @initialize(at_most_once=st.booleans())
    def first_stream(self, at_most_once):
        self.at_most_once = at_most_once
        self.capture(15, 0, "same")

    def capture_without_room(self):
        full = SizeLimits(0, 0)
        assert not self.do(self.repository.capture, [Reading("x", 1.0, 1)], [], self.now, full)

    def rename_the_node(self):
        self.begin_run(f"node-{int(self.node[5:]) + 1}")

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
        batch_range = next(
            (batch_range for batch_range, _ in self.batch_ranges() if first in batch_range),
            range(0),
        )
        ids = [number for number in range(first, first + length) if number in batch_range]
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
        for batch_range, status in self.batch_ranges():
            if status in ("DEAD", "IN_DOUBT") and len(batch_range) > 2:
                assert self.repository.requeue(batch_range[0], batch_range[-1], self.now) == len(
                    batch_range
                )
                self.requeued(batch_range)

    def evict_the_oldest(self):
        failed, pending = self.ids("FAILED"), self.ids("PENDING")
        batch_range = next(
            (
                list(batch_range)
                for batch_range, status in self.batch_ranges()
                if status == "FAILED"
            ),
            pending[:5],
        )
        n = self.do(self.repository.evict_oldest, "max_size", self.now)
        moved = self.follow("EVICTED", "FAILED", "PENDING")
        assert moved == ([] if n is None else batch_range)
        assert n is None or n == len(moved)
        assert not moved or moved[0] == min(failed or pending)

    def evict_what_is_parked(self):
        parked = [
            list(batch_range)
            for batch_range, status in self.batch_ranges()
            if status in ("DEAD", "IN_DOUBT")
        ]
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
        assert all(self.reading[number].captured_us < limit for number in moved)
        if n == 0 and (waiting := self.ids("FAILED") or self.ids("PENDING")):
            assert self.reading[waiting[0]].captured_us >= limit

    @precondition(lambda self: self.ids("SENT"))
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

    def sweep(self):
        """What was delivered before then is gone, up to the first fresh batch that was not."""
        due, after, ended = self.now - self.failures % 100, 0, False
        delivered = (
            "SELECT first_id, last_id FROM batch WHERE status = 'SENT' AND settled_at <= :due"
        )
        old = self.rows(delivered, due=due)
        while not ended:
            _, after, ended = self.repository.purge(after, due, self.now)
        below = [range(first, last + 1) for first, last in old if first <= after]
        assert self.follow("PURGED", "SENT") == [
            number for batch_range in below for number in batch_range
        ]
        fresh = """
        SELECT min(first_id) FROM batch
        WHERE status IN ('SENT', 'SENDING') AND attempts = 1 AND claimed_at <= :now
        """
        [(first,)] = self.rows(fresh, now=self.now)
        assert len(below) == len(old) or after == first - 1

    def purge_everything(self):
        after, ended = 0, False
        while not ended:
            _, after, ended = self.repository.purge(after, None, self.now)
        self.follow("PURGED", "SENT")
        assert self.ids("SENT") == []

    @precondition(lambda self: len(self.live) + len(self.stale) > 3)
    @rule(
        how=st.sampled_from(
            [evict_the_oldest, evict_what_is_parked, evict_what_is_old, sweep, purge_everything]
        )
    )
    def make_room(self, how):
        how(self)

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

    def let_in_what_may_go_again(self):
        while self.repository.let_in(self.now):
            pass
        apart = {one.isolated for one in self.failed_batch_ranges(apart=True)}
        assert apart <= self.isolated_names()

    def checkpoint(self):
        self.repository.checkpoint(truncate=len(self.status) % 2 == 0)

    def reopen(self):
        self.cut = None
        self.open()
        self.begin_run()

    @rule(
        change=st.sampled_from(
            [
                capture_without_room,
                QueueModel.begin_run,
                rename_the_node,
                requeue_all_that_is_parked,
                another_mode_of_delivery,
                another_limit_of_attempts,
                a_secret_changes,
                let_in_what_may_go_again,
                checkpoint,
                reopen,
            ]
        )
    )
    def what_happens_now_and_then(self, change):
        change(self)


Queue.TestCase.settings = settings(
    max_examples=int(os.environ.get("QUEUE_EXAMPLES", "200")),
    stateful_step_count=50,
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestRandomWalksThroughTheQueue = Queue.TestCase
