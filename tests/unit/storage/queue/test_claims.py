"""Who may send what, and when: fresh batches, due ones, probes, and the rate limit."""

from dataclasses import replace

import pytest
from storage_fixtures import (
    DELIVERED,
    POLICY,
    POLICY_ONCE,
    REFUSED,
    RULES,
    RULES_ONCE,
    SILENT,
    UNREACHABLE,
    batch_ranges,
    deliver,
    execute,
    fail,
    fill,
    new_stream,
    rows,
    set_sink,
    statuses,
)

NOW = 1000.0
LONGEST = POLICY.longest


def span(claim):
    return claim and (claim.first_id, claim.last_id)


def fresh(repository, limit=100, now=NOW, policy=POLICY):
    return repository.claim_fresh("sender", policy, now, limit)


def due(repository, now=NOW, policy=POLICY):
    return repository.claim_due("retrier", policy, now, 100)


def probe(repository, now=NOW, policy=POLICY):
    return repository.claim_probe("retrier", policy, now, 100)


def sink_down(repository, **columns):
    set_sink(repository, state="DOWN", epoch=2, next_probe_at=NOW, **columns)


# Fresh


def test_fresh_batches_are_the_oldest_pending_messages_in_order(repository):
    fill(repository, 25)
    assert [span(fresh(repository, 10)) for _ in range(4)] == [(1, 10), (11, 20), (21, 25), None]
    assert batch_ranges(repository) == [
        (1, 10, "SENDING"),
        (11, 20, "SENDING"),
        (21, 25, "SENDING"),
    ]
    assert set(statuses(repository).values()) == {"PENDING"}


def test_a_claim_tells_all_that_its_owner_must_know(repository):
    fill(repository, 3)
    set_sink(repository, epoch=7)
    claim = fresh(repository)
    assert (claim.owner, claim.attempt, claim.requeue_count) == ("sender", 1, 0)
    assert (claim.epoch, claim.probe, claim.size) == (7, False, 3)
    assert claim.stream.wire_id(2).endswith("-2")


def test_no_batch_crosses_a_stream(repository):
    fill(repository, 5)
    second = new_stream(repository, NOW)
    fill(repository, 5)
    third = new_stream(repository, NOW)
    fill(repository, 1)
    claims = [fresh(repository) for _ in range(3)]
    assert [span(claim) for claim in claims] == [(1, 5), (6, 10), (11, 11)]
    assert [claim.stream for claim in claims[1:]] == [second, third]


def test_while_the_sink_is_down_nothing_fresh_and_nothing_due_is_claimed(repository):
    fill(repository, 20)
    fail(repository, 10)
    sink_down(repository)
    assert fresh(repository) is None
    assert due(repository) is None


# Due


def test_the_batch_that_is_due_first_goes_first(repository):
    fill(repository, 3)
    for at in (30.0, 10.0, 20.0):
        fail(repository, 1, due_at=at)
    assert [span(due(repository)) for _ in range(4)] == [(2, 2), (3, 3), (1, 1), None]


def test_a_batch_is_not_claimed_before_it_is_due(repository):
    fill(repository, 1)
    fail(repository, 1, due_at=NOW + 10)
    assert repository.due_in(POLICY, NOW) > 0
    assert due(repository) is None
    assert repository.due_in(POLICY, NOW + 10) == 0
    assert span(due(repository, NOW + 10)) == (1, 1)


def test_asking_what_is_due_claims_nothing(repository):
    fill(repository, 1)
    fail(repository, 1)
    assert repository.due_in(POLICY, NOW) == 0
    assert repository.counts().failed == 1


def test_a_deadline_further_ahead_than_any_delay_is_a_clock_that_jumped_and_due(repository):
    fill(repository, 2)
    fail(repository, 1, due_at=NOW + LONGEST)
    fail(repository, 1, due_at=NOW + LONGEST + 1)
    assert repository.due_in(POLICY, NOW) == 0
    assert span(due(repository)) == (2, 2)
    assert due(repository) is None


def test_each_claim_counts_as_an_attempt_and_keeps_its_round(repository):
    fill(repository, 1)
    fail(repository, 1)
    claim = due(repository)
    assert (claim.attempt, claim.owner) == (2, "retrier")
    assert repository.settle(claim, SILENT, RULES, NOW)
    set_sink(repository, state="UP")
    assert due(repository, NOW + LONGEST).attempt == 3


def test_a_refused_batch_is_halved_to_the_end_before_anything_else_is_sent_again(repository):
    fill(repository, 60)
    for _ in range(7):
        fail(repository, 8, due_at=1.0)
    sizes = []
    for _ in range(4):
        claim = due(repository)
        sizes.append(claim.size)
        assert repository.settle(claim, REFUSED, RULES, NOW)
    assert sizes == [8, 4, 2, 1]


# Probes


def test_there_is_no_probe_while_the_sink_is_up(repository):
    fill(repository, 1)
    assert probe(repository) is None


def test_a_probe_waits_for_its_time(repository):
    fill(repository, 1)
    sink_down(repository)
    assert probe(repository, now=NOW - 1) is None
    claim = probe(repository)
    assert (span(claim), claim.probe, claim.epoch) == ((1, 1), True, 2)


def test_a_probe_is_due_when_the_clock_has_jumped_back_a_long_way(repository):
    fill(repository, 1)
    sink_down(repository)
    assert probe(repository, now=NOW - LONGEST - 1) is not None


def test_a_changed_secret_makes_the_probe_due_now(repository):
    fill(repository, 1)
    sink_down(repository)
    repository.probe_now(NOW - 500)
    assert probe(repository, now=NOW - 500) is not None


def test_a_probe_is_one_message_and_a_fresh_one_counts_as_never_tried(repository):
    fill(repository, 14)
    fail(repository, 10)
    sink_down(repository)
    probed = [span(probe(repository)) for _ in range(6)]
    assert probed == [(11, 11), (12, 12), (13, 13), (14, 14), (1, 1), (2, 2)]
    assert batch_ranges(repository)[2:3] == [(3, 10, "FAILED")], "what waits stays whole"


def test_without_fresh_messages_the_least_recently_tried_batch_probes(repository):
    fill(repository, 3)
    for _ in range(3):
        fail(repository, 1)
    sink_down(repository)
    order = []
    for _ in range(7):
        set_sink(repository, next_probe_at=0.0)
        claim = probe(repository)
        order.append(claim.first_id)
        assert repository.settle(claim, UNREACHABLE, RULES, NOW)
    assert order == [1, 2, 3, 1, 2, 3, 1]


def test_the_order_of_probes_does_not_depend_on_the_clock(repository):
    fill(repository, 3)
    for at in (3000.0, 2000.0, 1000.0):  # the clock ran backwards
        fail(repository, 1, now=at, due_at=at + 1)
    sink_down(repository)
    assert [span(probe(repository)) for _ in range(3)] == [(1, 1), (2, 2), (3, 3)]


# At most once


def test_at_most_once_never_sends_again_what_may_have_arrived(repository):
    fill(repository, 3)
    for _ in range(3):
        fail(repository, 1)
    execute(repository, "UPDATE batch SET fate_unknown = 1 WHERE first_id IN (1, 3)")
    execute(repository, "UPDATE batch SET next_attempt_at = 1e9 WHERE first_id = 3")
    assert span(due(repository, policy=POLICY_ONCE)) == (2, 2)
    assert repository.due_in(POLICY_ONCE, NOW) > 0
    assert due(repository, policy=POLICY_ONCE) is None
    sink_down(repository)
    assert probe(repository, policy=POLICY_ONCE) is None
    assert probe(repository) is not None


@pytest.mark.parametrize(
    ("rules", "policy", "following"), [(RULES, POLICY, None), (RULES_ONCE, POLICY_ONCE, (3, 3))]
)
def test_what_an_outage_left_over_goes_before_the_next_batch_if_it_may_go_again(
    repository, rules, policy, following
):
    fill(repository, 3)
    fail(repository, 1, due_at=NOW - 1)
    execute(repository, "UPDATE batch SET fate_unknown = 1")
    set_sink(repository, since=NOW)
    claim = fresh(repository, 1)
    took, claimed = repository.settle_and_claim(claim, DELIVERED, rules, policy, NOW, 1)
    assert (took, span(claimed)) == (True, following)


def test_doubtful_batches_are_parked_a_bounded_bite_at_a_time(repository):
    fill(repository, 24_100)
    for _ in range(4):
        fail(repository, 6000)
    fail(repository, 100)
    execute(repository, "UPDATE batch SET fate_unknown = 1 WHERE first_id < 24000")
    assert [repository.park_doubtful(NOW) for _ in range(5)] == [6000, 6000, 6000, 6000, 0]
    counts = repository.counts()
    assert (counts.in_doubt, counts.failed) == (24_000, 100)


# Reading what was claimed


def test_a_claim_reads_its_messages_in_order_and_no_others(repository):
    fill(repository, 30)
    fresh(repository, 10)
    claim = fresh(repository, 10)
    found = repository.read_claim(claim)
    assert [message.id for message in found] == list(range(11, 21))
    assert [message.value for message in found] == [float(i) for i in range(10, 20)]


@pytest.mark.parametrize(
    "change", [{"owner": "another"}, {"attempt": 2}, {"last_id": 9}, {"first_id": 2}]
)
def test_a_claim_that_is_not_ours_reads_nothing(repository, change):
    fill(repository, 10)
    claim = fresh(repository)
    assert repository.read_claim(replace(claim, **change)) == []


def test_a_settled_claim_reads_nothing(repository):
    fill(repository, 10)
    assert repository.read_claim(deliver(repository, 10)) == []


def test_a_claim_with_a_missing_row_reads_fewer_messages_than_its_size(unaudited):
    fill(unaudited, 10)
    claim = fresh(unaudited)
    execute(unaudited, "DELETE FROM message WHERE id = 5")
    assert len(unaudited.read_claim(claim)) == claim.size - 1


def test_the_claims_of_all_processes_can_be_listed(repository):
    fill(repository, 30)
    assert repository.claims() == []
    fail(repository, 10)
    fresh(repository, 10)
    deliver(repository, 5)
    due(repository)
    assert repository.claims() == [(11, 20, "sender"), (1, 10, "retrier")]


# Rate limit


def test_a_batch_is_at_most_a_second_of_the_rate_limit(repository):
    fill(repository, 30)
    sizes = [fresh(repository, 10, i * 99, replace(POLICY, max_rate=7.9)).size for i in range(2)]
    assert sizes == [7, 7]
    slow = replace(POLICY, max_rate=0.1)
    assert fresh(repository, 10, 1e4, slow).size == 1


def test_the_rate_limit_holds_over_a_long_time_and_is_used_up(repository):
    limited = replace(POLICY, max_rate=20.0)
    fill(repository, 10_000)
    sent = 0
    for tenth in range(1000):
        for _ in range(3):  # three processes share it
            claim = fresh(repository, 8, NOW + tenth / 10, limited)
            sent += claim.size if claim else 0
        assert sent <= 20 * tenth / 10 + 8
    assert sent >= 20 * 99


def test_a_pause_is_not_made_up_for_by_a_flood(repository):
    limited = replace(POLICY, max_rate=10.0)
    fill(repository, 100)
    assert fresh(repository, 10, NOW, limited)
    assert fresh(repository, 10, NOW + 60, limited)
    assert fresh(repository, 10, NOW + 60.9, limited) is None


def test_the_rate_limit_counts_retries_and_probes_too(repository):
    limited = replace(POLICY, max_rate=10.0)
    fill(repository, 30)
    fail(repository, 10)
    assert due(repository, NOW, limited).size == 10
    assert fresh(repository, 10, NOW + 0.9, limited) is None
    assert due(repository, NOW + 0.9, limited) is None
    sink_down(repository)
    assert probe(repository, NOW + 0.95, limited).size == 1
    set_sink(repository, state="UP")
    assert fresh(repository, 10, NOW + 1.04, limited) is None
    assert fresh(repository, 10, NOW + 1.06, limited).size == 10


def test_the_rate_limit_holds_for_a_process_that_had_to_wait_for_the_write_lock(repository):
    """It took its time before another claimed: that is no clock that has jumped."""
    limited = replace(POLICY, max_rate=10.0)
    fill(repository, 300)
    assert fresh(repository, 100, NOW, limited)
    assert fresh(repository, 100, NOW - 0.001, limited) is None
    assert fresh(repository, 100, NOW - 5, limited) is None


def test_a_claim_that_finds_nothing_costs_nothing_of_the_rate(repository):
    limited = replace(POLICY, max_rate=10.0)
    assert fresh(repository, 10, NOW, limited) is None
    fill(repository, 1)
    assert fresh(repository, 10, NOW, limited) is not None


def test_a_clock_set_back_does_not_stop_a_limited_sender(repository):
    limited = replace(POLICY, max_rate=10.0)
    fill(repository, 30)
    assert fresh(repository, 10, NOW, limited)
    assert fresh(repository, 10, NOW - 500, limited)


def test_a_delivery_leaves_no_due_time_behind(repository):
    fill(repository, 1)
    fail(repository, 1)
    assert repository.settle(due(repository), DELIVERED, RULES, NOW)
    assert rows(repository, "SELECT status, next_attempt_at, owner FROM batch") == [
        ("SENT", None, None)
    ]
