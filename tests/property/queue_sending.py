"""Claiming, sending and settling, as a sender and the retrier do, in any order."""

import math
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from queue_model import LONGEST, QueueModel

from sensor_node.model import Outcome, Verdict
from sensor_node.settlement import DUE_FIRST

OWNERS = ("sender-1", "sender-2", "retrier")

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


class Sending(QueueModel):
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
    @rule(index=indexes, limit=limits)
    def claim_due(self, index, limit):
        due = {tile: at for tile, at in self.failed_tiles() if at <= self.now}
        overdue = {tile: at for tile, at in self.failed_tiles() if at > self.now + LONGEST}
        up, crashing = self.sink.up, self.cut is not None
        if not crashing:
            later = [at - self.now for _, at in self.failed_tiles()]
            wanted = 0.0 if due or overdue else min(later, default=math.inf)
            assert self.repository.due_in(self.policy, self.now) == wanted
        claim = self.do(self.repository.claim_due, self.owner(index), self.policy, self.now, limit)
        if claim:
            tile = self.whole(claim, limit, due | overdue)
            assert up
            assert due[tile] == min(due.values()) if due else tile in overdue
            self.claimed(claim, "FAILED")
        else:
            assert crashing or not up or not (due or overdue)

    @precondition(lambda self: self.ids("FAILED"))
    @rule(index=indexes, limit=limits)
    def claim_left_over(self, index, limit):
        """What was due when the sink came UP, and is not being halved."""
        latest = min(self.now, self.sink.since)
        left = {tile: at for tile, at in self.failed_tiles() if DUE_FIRST < at <= latest}
        up, crashing, owner = self.sink.up, self.cut is not None, self.owner(index)
        claim = self.do(
            self.repository.claim_due, owner, self.policy, self.now, limit, left_over=True
        )
        if claim:
            assert up
            assert left[self.whole(claim, limit, left)] == min(left.values())
            self.claimed(claim, "FAILED")
        else:
            assert crashing or not up or not left

    def whole(self, claim, limit, tiles):
        """The tile of which the claim has as much as it may."""
        [tile] = [each for each in tiles if each[0] == claim.first_id]
        assert tile[:limit] == range(claim.first_id, claim.last_id + 1)
        return tile

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
            self.whole(claim, limit, failed)
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
        before = self.sink
        took = self.do(self.repository.settle, claim, outcome, self.verdicts, self.now)
        if took is None:
            return
        assert took
        self.settled(claim, outcome, before)

    @precondition(lambda self: self.live)
    @rule(index=indexes, outcome=outcomes, limit=limits, statements=st.none() | st.integers(0, 25))
    def settle_and_claim(self, index, outcome, limit, statements):
        """In one transaction: what is claimed is what claim_fresh() would, if there is so much."""
        self.cut = statements
        claim = self.live[index % len(self.live)]
        before = self.sink
        what = (claim, outcome, self.verdicts, self.policy, self.now, limit)
        done = self.do(self.repository.settle_and_claim, *what)
        if done is None:
            return
        took, following = done
        assert took
        self.settled(claim, outcome, before)
        pending, enough = self.fresh_range(limit), len(self.ids("PENDING")) >= limit
        if following:
            expected = list(range(following.first_id, following.last_id + 1))
            self.claimed(following, "PENDING")
            assert enough and self.sink.up and following.owner == claim.owner
            assert pending == expected
        left = any(DUE_FIRST < at <= self.sink.since for _, at in self.failed_tiles())
        assert (following is not None) == (enough and self.sink.up and not left)

    def settled(self, claim, outcome, before):
        ids = range(claim.first_id, claim.last_id + 1)
        self.lost(claim)
        delivered = outcome.verdict is Verdict.DELIVERED
        if not delivered and not outcome.fate_known:
            self.unknown.update(ids)
        self.answers.update(ids if outcome.answered else ())
        status = self.stored()[claim.first_id]
        self.check_halves(ids, must=status == "FAILED" and outcome.verdict is Verdict.REFUSED)
        assert status in self.allowed(claim, outcome)
        self.move(ids, status, "SENDING")
        if status == "FAILED":
            self.fail(ids)
        if len(ids) == 1 and outcome.verdict is Verdict.REFUSED:
            on_their_way = len(self.ids("SENDING"))
            self.refused_at.setdefault(claim.first_id, before.successes + on_their_way)
        after = self.sink
        assert after.epoch == before.epoch + (after.state is not before.state)
        if claim.epoch != before.epoch:
            counts = {"successes": before.successes, "in_flight": before.in_flight}
            assert replace(after, **counts) == before
        assert after.up or not before.up or not delivered

    @precondition(lambda self: self.live)
    @rule(index=indexes, outcome=outcomes, statements=st.integers(0, 15))
    def settle_and_be_cut_off(self, index, outcome, statements):
        self.cut = statements
        self.settle(index, outcome)

    def allowed(self, claim, outcome):
        ids = range(claim.first_id, claim.last_id + 1)
        if outcome.verdict is Verdict.DELIVERED:
            return ["SENT"]
        if self.at_most_once and not outcome.fate_known:
            return ["IN_DOUBT"]
        if len(ids) == 1 and outcome.verdict is Verdict.REFUSED:
            refused_at = self.refused_at.get(ids[0])
            accepted = refused_at is not None and claim.successes > refused_at
            return ["DEAD" if accepted else "FAILED"]
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
