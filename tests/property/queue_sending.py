"""Claiming, sending and settling, as a sender and the retrier do, in any order."""

import itertools
import math
from dataclasses import replace
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from queue_model import LONGEST, QueueModel

from sensor_node.core.model import Outcome, Verdict
from sensor_node.core.settlement import DUE_FIRST, Probe

# Its readings, alone or among others, are never answered.
BAD_SENSOR = "name 3"
SILENT = Outcome(Verdict.TRY_LATER, "no answer")
UNSENT = Outcome(Verdict.UNSENT, "too large", fate_known=True)
OWNERS = ("sender-1", "sender-2", "retrier")

indexes = st.integers(0, 1000)
limits = st.sampled_from([5, 1, 2, 3, 9, 40])
# What is not sent has a rule of its own.
verdicts = st.sampled_from(
    [*[Verdict.DELIVERED] * 5, *[Verdict.REFUSED] * 4, Verdict.TRY_LATER, Verdict.MISCONFIGURED]
)
outcomes = st.builds(
    Outcome,
    verdicts,
    st.sampled_from(["", "no answer", "503 Busy"]),
    st.just(""),
    answered=st.booleans(),
    fate_known=st.booleans(),
    retry_after=st.none() | st.floats(0, 3600),
    overloaded=st.booleans(),
)


def of_content(claim):
    """A sink that objects to every seventh message."""
    bad = any(number % 7 == 3 for number in range(claim.first_id, claim.last_id + 1))
    verdict = Verdict.REFUSED if bad else Verdict.DELIVERED
    return Outcome(verdict, "", answered=True, fate_known=True)


class FailedTile(NamedTuple):
    ids: range
    at: float
    failure_order: int
    failures: int
    isolated: str | None
    alike: str | None


class Sending(QueueModel):
    # Claims

    def owner(self, index):
        """A living process; a dead one's place is taken by another."""
        name = OWNERS[index % len(OWNERS)]
        return f"{name}:boot:{sum(name in owner for owner in self.dead_owners)}:1"

    def clean(self, ids):
        """Those before the first one of an isolated sensor."""
        names = self.isolated_names()
        return list(itertools.takewhile(lambda i: self.reading[i].name not in names, ids))

    def apart(self, ids):
        """Those of isolated sensors that come before all others."""
        names = self.isolated_names()
        return list(itertools.takewhile(lambda i: self.reading[i].name in names, ids))

    def fresh_range(self, limit):
        """The oldest pending messages, as far as stream and node are the same.

        What there is of isolated sensors before them is set apart.
        """
        pending = self.ids("PENDING")
        pending = pending[len(self.apart(pending)) :][:limit]
        same = [i for i in pending if self.wire[i][::2] == self.wire[pending[0]][::2]]
        return self.clean(same)

    def claims_fresh(self, claim, expected):
        """What was passed over is FAILED, and the claim is what was expected."""
        if expected and claim:
            before = [number for number in self.ids("PENDING") if number < expected[0]]
        else:
            before = self.ids("PENDING") if claim is None else []
        aside = self.follow_some("FAILED", before)
        assert aside == self.apart(aside)
        if claim:
            assert list(range(claim.first_id, claim.last_id + 1)) == expected
            self.claimed(claim, "PENDING")

    def follow_some(self, target, ids):
        """Those of these that have moved there, in the database."""
        stored = self.stored()
        moved = [number for number in ids if stored[number] == target]
        for number in moved:
            self.status[number] = target
            self.failed_at[number] = 0
        return moved

    @precondition(lambda self: self.ids("PENDING"))
    @rule(index=indexes, limit=limits)
    def claim_fresh(self, index, limit):
        expected = self.fresh_range(limit) if self.sink.up else []
        crashing = self.cut is not None
        claim = self.do(
            self.repository.claim_fresh, self.owner(index), self.policy, self.now, limit
        )
        assert claim or crashing or not expected
        self.claims_fresh(claim, expected)

    def failed_batch_ranges(self, *, apart=False):
        """Range and due time of those that may go, and the sensor of those that are set apart."""
        sql = """
        SELECT first_id, last_id, next_attempt_at, failure_order, failures, isolated,
               CASE WHEN failed_epoch IS NULL AND accepted_at_refusal IS NULL AND NOT unsent
                    THEN fate_unknown || ' ' || requeue_count END
        FROM batch WHERE status = 'FAILED'
        """
        found = [FailedTile(range(row[0], row[1] + 1), *row[2:]) for row in self.rows(sql)]
        if self.at_most_once:
            found = [one for one in found if self.unknown.isdisjoint(one.ids)]
        return [one for one in found if (one.isolated is not None) == apart]

    def of(self, batch_ranges, limit):
        """What is claimed of batch ranges that are asked for in this order."""
        for one in batch_ranges:
            ids = self.joined(one, limit)
            if ids := self.clean(ids[len(self.apart(ids)) :])[:limit]:
                return ids
        return []

    def joined(self, one, limit):
        """With its neighbours, as far as none of them is known to be at fault."""
        ids = list(one.ids)
        if limit == 1 or self.isolated_names():
            return ids
        clean = {
            batch_range.ids[0]: batch_range
            for batch_range in self.failed_batch_ranges()
            if batch_range.alike
            and not batch_range.failures
            and DUE_FIRST < batch_range.at <= self.now
        }
        following = clean.get(ids[0])
        while following and following.alike == one.alike and len(ids) <= limit:
            following = clean.get(ids[-1] + 1)
            if following is None or self.wire[following.ids[0]][::2] != self.wire[ids[0]][::2]:
                break
            if following.alike != one.alike or len(ids) + len(following.ids) > limit:
                break
            ids += following.ids
        return ids

    def suspects(self, on_the_way=()):
        """Of each isolated sensor of which something may go: wait, and the id tried first.

        With what a claim sets apart of these batch ranges on its way.
        """
        batch_ranges = [*self.failed_batch_ranges(apart=True), *on_the_way]
        turns = [(one.failure_order, number) for one in batch_ranges for number in one.ids]
        found = []
        for name, at in self.rows("SELECT name, next_probe_at FROM suspect WHERE isolated"):
            if of_it := [one for one in turns if self.reading[one[1]].name == name]:
                wait = at - self.now
                found.append((wait if wait <= LONGEST else 0.0, min(of_it)[1]))
        return sorted(found)

    def due(self):
        """Ranges in the order in which they are due; last those of a clock that has jumped."""
        failed = sorted(self.failed_batch_ranges(), key=lambda one: (one.at, one.ids[0]))
        overdue = [one for one in failed if one.at > self.now + LONGEST]
        return [*(one for one in failed if one.at <= self.now), *overdue]

    @precondition(lambda self: self.ids("FAILED"))
    @rule(index=indexes, limit=limits)
    def claim_due(self, index, limit):
        failed, due = self.failed_batch_ranges(), self.due()
        suspects = self.suspects()
        up, crashing = self.sink.up, self.cut is not None
        if not crashing:
            waits = [0.0 if due else one.at - self.now for one in failed]
            waits += [max(0.0, wait) for wait, _ in suspects]
            assert self.repository.due_in(self.policy, self.now) == min(waits, default=math.inf)
        expected = self.of(due, limit)
        claim = self.do(self.repository.claim_due, self.owner(index), self.policy, self.now, limit)
        since = min([one.at for one in due if one.at <= self.now], default=math.inf)
        if suspects and suspects[0][0] <= 0 and self.now + suspects[0][0] <= since:
            expected = [suspects[0][1]]
        self.claims_again(claim, expected if up else [], crashing)

    @precondition(lambda self: self.ids("FAILED"))
    @rule(index=indexes, limit=limits)
    def claim_left_over(self, index, limit):
        """What has not failed for its own sake, and is not being halved."""
        failed = sorted(self.failed_batch_ranges(), key=lambda one: (one.at, one.ids[0]))
        left = [one for one in failed if not one.failures and DUE_FIRST < one.at <= self.now]
        up, crashing, owner = self.sink.up, self.cut is not None, self.owner(index)
        expected = self.of(left, limit) if up else []
        claim = self.do(self.repository.claim_left_over, owner, self.policy, self.now, limit)
        self.claims_again(claim, expected, crashing)

    def claims_again(self, claim, expected, crashing):
        if claim:
            assert list(range(claim.first_id, claim.last_id + 1)) == expected
            self.claimed(claim, "FAILED")
        else:
            assert crashing or not expected

    @precondition(lambda self: not self.sink.up)
    @rule(index=indexes, limit=limits)
    def claim_probe(self, index, limit):
        sink, crashing = self.sink, self.cut is not None
        due = sink.next_probe_at <= self.now or sink.next_probe_at > self.now + LONGEST
        by_turn = sorted(
            self.failed_batch_ranges(), key=lambda one: (one.failure_order, one.ids[0])
        )
        tried = [one.ids[0] for one in by_turn if one.ids[0] not in self.was_apart]
        assert tried == sorted(tried, key=lambda number: (self.failed_at[number], number))
        chosen = self.of_kind(sink.probe)
        if sink.probe is Probe.BATCH:
            failed = self.of(self.due(), limit)
            fresh = [] if failed else self.fresh_range(limit)
        else:
            limit = 1
            fresh = chosen or self.fresh_range(1)
            failed = [] if fresh else self.of(by_turn, 1)
        failed = failed or [number for _, number in self.suspects(by_turn)[:1]]
        what = (self.owner(index), self.policy, self.now, limit)
        claim = self.do(self.repository.claim_probe, *what)
        if claim is None:
            assert crashing or sink.up or not due or not (fresh or failed)
            self.follow_some("FAILED", self.ids("PENDING"))
            return
        assert not sink.up and due
        if chosen:
            before = [number for number in self.ids("PENDING") if number < chosen[0]]
            assert self.follow_some("FAILED", before) == before
        if fresh:
            self.claims_fresh(claim, fresh)
            return
        self.follow_some("FAILED", self.ids("PENDING"))
        assert claim.size <= limit
        if self.status[claim.first_id] == "PENDING":  # set aside just now, and never tried
            self.status[claim.first_id] = "FAILED"
            self.failed_at[claim.first_id] = 0
        assert claim.first_id in failed or self.failed_at[claim.first_id] == 0
        self.claimed(claim, "FAILED")

    def of_kind(self, probe):
        """The first message that is of the kind of lone probe that is asked for."""
        names = dict(self.rows("SELECT name, isolated FROM suspect WHERE failures > 0"))
        pending = self.ids("PENDING")
        for number in pending:
            if self.wire[number][::2] != self.wire[pending[0]][::2]:
                break
            name = self.reading[number].name
            if probe is Probe.SUSPECTED and names.get(name) == 0:
                return [number]
            if probe is Probe.UNSUSPECTED and name not in names:
                return [number]
        return []

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

    @precondition(lambda self: self.ids("PENDING", "FAILED"))
    @rule(limit=limits, wait=st.sampled_from([70.0, 1.0, 0.0]), turns=st.integers(10, 40))
    def work_with_a_sink_that_fails_with_one_sensor(self, limit, wait, turns):
        for _ in range(turns):
            self.work(limit, wait, self.of_sensor)

    def of_sensor(self, claim):
        ids = range(claim.first_id, claim.last_id + 1)
        bad = any(self.reading[number].name == BAD_SENSOR for number in ids)
        return SILENT if bad else Outcome(Verdict.DELIVERED, "", answered=True, fate_known=True)

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
        left = any(
            not one.failures and DUE_FIRST < one.at <= self.now
            for one in self.failed_batch_ranges()
        )
        if following:
            assert enough and self.sink.up and not left and following.owner == claim.owner
        else:
            assert not (enough and self.sink.up and not left and pending)
        if enough and self.sink.up and not left:
            self.claims_fresh(following, pending)

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
            self.refused_at.setdefault(claim.first_id, before.accepted_total + on_their_way)
        after = self.sink
        assert after.epoch == before.epoch + (after.state is not before.state)
        if claim.epoch != before.epoch:
            counts = ("accepted_total", "in_flight", "suspects", "isolated")
            assert replace(after, **{name: getattr(before, name) for name in counts}) == before
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
            accepted = refused_at is not None and claim.accepted_total > refused_at
            return ["DEAD" if accepted else "FAILED"]
        if len(ids) == 1 and outcome.verdict is Verdict.TRY_LATER and outcome.answered:
            enough = 0 < self.max_attempts <= self.answers[ids[0]]
            return ["FAILED", "DEAD"] if enough else ["FAILED"]
        return ["FAILED"]

    @precondition(lambda self: self.live)
    @rule(index=indexes)
    def send_nothing(self, index):
        claim = self.live[index % len(self.live)]
        if self.do(self.repository.settle, claim, UNSENT, self.verdicts, self.now) is None:
            return
        self.lost(claim)
        ids = range(claim.first_id, claim.last_id + 1)
        self.move(ids, "FAILED", "SENDING")
        self.fail(ids)
        self.check_halves(ids, must=True)

    def check_halves(self, ids, *, must):
        """The batch is whole still, or cut in the middle; a lone message cannot be cut."""
        found = [batch_range for batch_range, _ in self.batch_ranges() if batch_range[0] in ids]
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
        assert self.repository.read_claim(claim) == []
        assert self.dump() == before
