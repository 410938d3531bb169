"""A claim that is given back or lost, and ids that nobody has: what is told, and what is not."""

import pytest
from storage_fixtures import (
    DELIVERED,
    POLICY,
    RULES,
    UNSENT,
    batch,
    batch_ranges,
    dump,
    events,
    fill,
    park,
)


def test_what_was_too_large_to_send_says_so_and_when(repository):
    fill(repository, 4)
    claim = repository.claim_fresh("sender", POLICY, 10.0, 4)
    assert repository.settle(claim, UNSENT, RULES, 20.0)
    assert [(first, last) for first, last, _ in batch_ranges(repository)] == [(1, 2), (3, 4)]
    for first in (1, 3):
        told = batch(repository, first, "status", "settled_at", "last_error", "next_attempt_at")
        assert told == ("FAILED", 20.0, UNSENT.detail, 20.0)


def test_a_whole_batch_whose_claim_was_lost_is_not_settled_and_nothing_is_claimed(repository):
    fill(repository, 4)
    claim = repository.claim_fresh("sender", POLICY, 10.0, 2)
    assert repository.reclaim(1, "sender", 20.0, at_most_once=False)
    before = dump(repository)
    assert repository.settle_and_claim(claim, DELIVERED, RULES, POLICY, 30.0, 2) == (False, None)
    assert dump(repository) == before


@pytest.mark.parametrize(("first", "last"), [(5, 5), (100, 200)])
def test_ids_above_all_that_was_claimed_are_not_requeued_and_no_event_says_so(
    repository, first, last
):
    fill(repository, 4)
    park(repository, 4, "DEAD")
    assert repository.requeue(first, last, 1000.0) == 0
    assert events(repository, "requeued") == []
    assert batch_ranges(repository) == [(1, 4, "DEAD")]
