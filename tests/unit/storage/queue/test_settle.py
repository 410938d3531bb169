"""Only the process that holds a claim settles it, once (P3, P4); and what settling writes."""

from dataclasses import replace

import pytest
from storage_fixtures import (
    BUSY,
    DELIVERED,
    POLICY,
    REFUSED,
    RULES,
    RULES_ONCE,
    SILENT,
    UNAUTHORIZED,
    UNREACHABLE,
    UNSENT,
    batch,
    batch_ranges,
    dump,
    events,
    execute,
    fill,
    rows,
    set_sink,
    statuses,
)

NOW = 1000.0
LATER = NOW + POLICY.longest


@pytest.fixture
def claim(repository):
    """Ids 11 to 20 of 30; 1 to 10 are another process's."""
    fill(repository, 30)
    repository.claim_fresh("another", POLICY, NOW, 10)
    return repository.claim_fresh("sender", POLICY, NOW, 10)


# What is written


@pytest.mark.parametrize(
    ("outcome", "rules", "status"),
    [
        (DELIVERED, RULES, "SENT"),
        (UNREACHABLE, RULES, "FAILED"),
        (SILENT, RULES_ONCE, "IN_DOUBT"),
    ],
)
def test_a_settled_batch_and_its_messages_have_the_same_status(
    repository, claim, outcome, rules, status
):
    assert repository.settle(claim, outcome, rules, NOW)
    assert batch_ranges(repository) == [(1, 10, "SENDING"), (11, 20, status)]
    marked = {number for number, each in statuses(repository).items() if each == status}
    assert marked == set(range(11, 21))


def test_a_lone_message_that_stays_refused_ends_dead(repository):
    fill(repository, 2)
    claim = repository.claim_fresh("sender", POLICY, NOW, 1)
    assert repository.settle(claim, REFUSED, RULES, NOW)
    other = repository.claim_fresh("sender", POLICY, NOW, 1)
    assert repository.settle(other, DELIVERED, RULES, NOW)
    again = repository.claim_due("sender", POLICY, LATER, 100)
    assert repository.settle(again, REFUSED, RULES, LATER)
    assert batch_ranges(repository) == [(1, 1, "DEAD"), (2, 2, "SENT")]
    assert statuses(repository) == {1: "DEAD", 2: "SENT"}


def test_a_settled_batch_has_no_owner_and_keeps_its_last_error(repository, claim):
    assert repository.settle(claim, BUSY, RULES, NOW)
    assert batch(repository, 11, "owner", "last_error", "settled_at") == (None, "503 Busy", NOW)


def test_what_settlement_decided_is_there_at_the_next_claim(repository, claim):
    """The record of a batch survives in the database: a second process sees the same."""
    rules = replace(RULES, max_attempts=3)
    execute(
        repository,
        "UPDATE batch SET answers = 2, failed_epoch = -1, accepted_at_failure = 0,"
        " accepted_at_refusal = 7, fate_unknown = 0 WHERE first_id = 11",
    )
    assert repository.settle(claim, SILENT, rules, NOW)
    record = batch(
        repository,
        11,
        *("answers", "failed_epoch", "accepted_at_failure", "accepted_at_refusal", "fate_unknown"),
    )
    assert record == (2, -1, 0, 7, 1)


def test_the_sink_goes_down_and_up_with_the_batches_and_both_are_events(repository, claim):
    assert repository.settle(claim, UNAUTHORIZED, RULES, NOW)
    down = repository.backlog(0.0).sink
    assert (down.up, down.since, down.reason) == (False, NOW, UNAUTHORIZED.detail)
    assert (down.hint, down.epoch, down.failures) == (UNAUTHORIZED.hint, 2, 1)
    probe = repository.claim_probe("retrier", POLICY, LATER, 100)
    assert repository.settle(probe, DELIVERED, RULES, NOW + 60)
    up = repository.backlog(0.0).sink
    assert (up.up, up.since, up.reason, up.hint, up.epoch) == (True, NOW + 60, "", "", 3)
    assert events(repository, "sink down") == ["401 Unauthorized"]
    assert events(repository, "sink up") == ["after 60 s, backlog 29: 401 Unauthorized"]


def test_repeated_failed_probes_are_one_event(repository, claim):
    assert repository.settle(claim, BUSY, RULES, NOW)
    for _ in range(3):
        probe = repository.claim_probe("retrier", POLICY, LATER, 100)
        assert repository.settle(probe, BUSY, RULES, LATER)
        set_sink(repository, next_probe_at=0.0)
    assert events(repository, "sink down") == ["503 Busy"]


def test_each_change_of_the_reason_is_told_by_one_event_of_each_outage(repository, claim):
    def outage(claim, *outcomes):
        for outcome in outcomes:
            assert repository.settle(claim, outcome, RULES, NOW)
            set_sink(repository, next_probe_at=0.0)
            claim = repository.claim_probe("retrier", POLICY, LATER, 100)
        assert repository.settle(claim, DELIVERED, RULES, NOW)

    outage(claim, BUSY, BUSY)
    assert events(repository, "still down") == []
    outage(repository.claim_fresh("sender", POLICY, NOW, 3), BUSY, UNAUTHORIZED, BUSY, UNAUTHORIZED)
    assert events(repository, "still down") == ["401 Unauthorized"]
    assert rows(repository, "SELECT n FROM event WHERE kind = 'still down'") == [(3,)]
    outage(repository.claim_fresh("sender", POLICY, NOW, 3), UNAUTHORIZED, BUSY)
    assert events(repository, "still down") == ["401 Unauthorized", "503 Busy"]


def test_a_surplus_answer_is_an_event(repository, claim):
    assert repository.settle(claim, replace(DELIVERED, surplus=True), RULES, NOW)
    [detail] = events(repository, "surplus answer")
    assert detail.startswith("the sink sends more than it is asked for: ")


def test_messages_purged_after_delivery_still_count_as_accepted(repository):
    fill(repository, 5)
    claim = repository.claim_fresh("sender", POLICY, NOW, 5)
    assert repository.settle(claim, DELIVERED, RULES, NOW)
    repository.purge(0, None, NOW)
    assert repository.backlog(0.0).sink.accepted_total == 5


# Halving


@pytest.mark.parametrize(("size", "left"), [(2, 1), (3, 1), (10, 5), (11, 5), (100, 50)])
def test_a_refused_batch_becomes_two_failed_halves_alike_in_all_else(repository, size, left):
    fill(repository, size)
    claim = repository.claim_fresh("sender", POLICY, NOW, size)
    execute(repository, "UPDATE batch SET attempts = 5, requeue_count = 3, fate_unknown = 1")
    assert repository.settle(replace(claim, attempt=5), REFUSED, RULES, NOW)
    assert batch_ranges(repository) == [(1, left, "FAILED"), (left + 1, size, "FAILED")]
    columns = [name for _, name, *_ in rows(repository, "PRAGMA table_info(batch)")][2:]
    assert batch(repository, 1, *columns) == batch(repository, left + 1, *columns)
    assert set(statuses(repository).values()) == {"FAILED"}


def test_a_batch_that_cannot_be_sent_is_halved_and_due_at_once(repository, claim):
    assert repository.settle(claim, UNSENT, RULES, NOW)
    assert batch_ranges(repository)[1:] == [(11, 15, "FAILED"), (16, 20, "FAILED")]
    for first_id in (11, 16):
        record = batch(repository, first_id, "last_error", "next_attempt_at", "attempts", "owner")
        assert record == (UNSENT.detail, NOW, 1, None)


def test_a_lone_message_that_cannot_be_sent_waits(repository):
    fill(repository, 1)
    claim = repository.claim_fresh("sender", POLICY, NOW, 1)
    assert repository.settle(claim, UNSENT, RULES, NOW)
    assert batch_ranges(repository) == [(1, 1, "FAILED")]
    due_at, failures = batch(repository, 1, "next_attempt_at", "failures")
    assert (due_at > NOW, failures) == (True, 1)


def test_what_was_not_sent_says_nothing_about_the_sink_or_about_past_failures(repository, claim):
    before = repository.backlog(0.0).sink
    repository.settle(claim, UNSENT, RULES, NOW)
    assert repository.backlog(0.0).sink == replace(before, in_flight=before.in_flight - claim.size)
    assert batch(repository, 11, "failed_epoch", "answers") == (None, 0)


# The fence

STALE = [
    {"owner": "another"},
    {"owner": "sender2"},
    {"attempt": 2},
    {"attempt": 0},
    {"first_id": 1, "last_id": 10},
    {"first_id": 12},
    {"last_id": 19},
    {"last_id": 21},
    {"first_id": 21, "last_id": 30},
]


@pytest.mark.parametrize("change", STALE, ids=str)
@pytest.mark.parametrize("outcome", [DELIVERED, REFUSED, SILENT, UNSENT], ids=lambda o: o.detail)
def test_a_claim_that_is_not_exactly_ours_settles_nothing(repository, claim, change, outcome):
    before = dump(repository)
    stale = replace(claim, **change)
    assert not repository.settle(stale, outcome, RULES, NOW)
    assert dump(repository) == before


def lose_by_settling(repository, claim):
    assert repository.settle(claim, SILENT, RULES_ONCE, NOW)


def lose_by_delivering(repository, claim):
    assert repository.settle(claim, DELIVERED, RULES, NOW)


def lose_by_halving(repository, claim):
    assert repository.settle(claim, REFUSED, RULES, NOW)


def lose_by_not_sending(repository, claim):
    assert repository.settle(claim, UNSENT, RULES, NOW)


def lose_to_the_retrier(repository, claim):
    assert repository.reclaim(claim.first_id, claim.owner, NOW, at_most_once=False) == 10


def lose_and_be_claimed_again(repository, claim):
    """By the same process: only the attempt tells the claims apart."""
    lose_to_the_retrier(repository, claim)
    assert repository.claim_due(claim.owner, POLICY, NOW, 100).first_id == claim.first_id


def lose_by_halving_and_be_claimed_again(repository, claim):
    lose_by_not_sending(repository, claim)
    assert repository.claim_due(claim.owner, POLICY, NOW, 100).first_id == claim.first_id


@pytest.mark.parametrize(
    "lose",
    [
        lose_by_settling,
        lose_by_delivering,
        lose_by_halving,
        lose_by_not_sending,
        lose_to_the_retrier,
        lose_and_be_claimed_again,
        lose_by_halving_and_be_claimed_again,
    ],
)
@pytest.mark.parametrize("outcome", [DELIVERED, REFUSED, SILENT, UNSENT], ids=lambda o: o.detail)
def test_a_process_that_lost_its_claim_cannot_settle_it(repository, claim, lose, outcome):
    lose(repository, claim)
    before = dump(repository)
    assert not repository.settle(claim, outcome, RULES, NOW)
    assert repository.read_claim(claim) == []
    assert dump(repository) == before


# Claims of dead processes


@pytest.mark.parametrize(("at_most_once", "status"), [(False, "FAILED"), (True, "IN_DOUBT")])
def test_the_claim_of_a_dead_process_is_taken_back(repository, claim, at_most_once, status):
    assert repository.reclaim(11, "sender", NOW, at_most_once=at_most_once) == 10
    assert batch_ranges(repository) == [(1, 10, "SENDING"), (11, 20, status)]
    record = batch(repository, 11, "fate_unknown", "owner", "next_attempt_at", "attempts")
    assert record == (1, None, NOW, 1)
    assert statuses(repository)[15] == status
    assert events(repository, "reclaimed") == ["from sender"]


@pytest.mark.parametrize(("first_id", "owner"), [(11, "another"), (12, "sender"), (1, "sender")])
def test_nothing_else_is_taken_back(repository, claim, first_id, owner):
    before = dump(repository)
    assert repository.reclaim(first_id, owner, NOW, at_most_once=False) == 0
    assert dump(repository) == before
