"""A person puts DEAD, IN_DOUBT or SENT messages back into the queue."""

from dataclasses import replace

import pytest
from storage_fixtures import (
    DELIVERED,
    POLICY,
    REFUSED,
    RULES,
    batch,
    batch_ranges,
    dump,
    events,
    execute,
    fail,
    fill,
    park,
    statuses,
)

NOW = 1000.0


@pytest.mark.parametrize("status", ["DEAD", "IN_DOUBT"])
@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (1, 10, [(1, 10, "FAILED")]),
        (1, 1, [(1, 1, "FAILED"), (2, 10, None)]),
        (10, 10, [(1, 9, None), (10, 10, "FAILED")]),
        (4, 6, [(1, 3, None), (4, 6, "FAILED"), (7, 10, None)]),
        (4, 99, [(1, 3, None), (4, 10, "FAILED")]),
    ],
)
def test_requeue_cuts_the_batch_range_around_what_was_asked_for(
    repository, status, first, last, expected
):
    fill(repository, 10)
    park(repository, 10, status)
    n = min(last, 10) - first + 1
    assert repository.requeue(first, last, NOW) == n
    assert batch_ranges(repository) == [(a, b, each or status) for a, b, each in expected]
    assert events(repository, "requeued") == [""]


def test_a_delivered_message_can_be_requeued(repository):
    fill(repository, 3)
    claim = repository.claim_fresh("sender", POLICY, NOW, 3)
    repository.settle(claim, DELIVERED, RULES, NOW)
    assert repository.requeue(2, 2, NOW) == 1
    assert statuses(repository) == {1: "SENT", 2: "FAILED", 3: "SENT"}


def test_what_was_requeued_is_due_now_in_a_new_round_and_starts_afresh(repository):
    fill(repository, 3)
    park(repository, 3)
    execute(
        repository,
        "UPDATE batch SET attempts = 9, answers = 5, failed_epoch = 1, accepted_at_failure = 1,"
        " accepted_at_refusal = 1, fate_unknown = 1, next_attempt_at = NULL",
    )
    repository.requeue(1, 3, NOW)
    columns = "answers, failed_epoch, accepted_at_failure, accepted_at_refusal, fate_unknown"
    assert batch(repository, 1, columns) == (0, None, None, None, 0)
    claim = repository.claim_due("retrier", replace(POLICY, at_most_once=True), NOW, 100)
    assert (claim.attempt, claim.requeue_count) == (10, 1)


def test_a_requeued_message_is_again_dead_only_after_new_evidence(repository):
    fill(repository, 1)
    park(repository, 1)
    execute(repository, "UPDATE batch SET accepted_at_refusal = -1")
    repository.requeue(1, 1, NOW)
    claim = repository.claim_due("retrier", POLICY, NOW, 100)
    assert repository.settle(claim, REFUSED, RULES, NOW)
    assert batch_ranges(repository) == [(1, 1, "FAILED")]


def test_what_is_pending_sending_failed_or_gone_is_not_requeued(repository):
    fill(repository, 5)
    repository.evict_oldest("max_size", NOW)
    fill(repository, 30)
    fail(repository, 10)
    repository.claim_fresh("sender", POLICY, NOW, 10)
    before = dump(repository)
    for number in (0, 1, 6, 16, 26, 99):
        assert repository.requeue(number, number, NOW) == 0
    assert dump(repository) == before
