"""Bounded (P5), and still accounted for (P3): purging what was delivered, evicting the rest."""

import contextlib

import pytest
from storage_fixtures import (
    DELIVERED,
    POLICY,
    RULES,
    LockCounter,
    batch_ranges,
    deliver,
    events,
    execute,
    fail,
    fill,
    park,
    rows,
    statuses,
)

from sensor_node.storage.repository import SensorDataSQLRepository

NOW = 1000.0
SECOND_US = 1_000_000
EVERY = None  # settled at any time


def delivered(repository, batches, size=1, now=0.0):
    for _ in range(batches):
        deliver(repository, size, now)


def deliver_again(repository, count, now):
    """Deliver a fresh batch at its second try, which took 8 s."""
    fail(repository, count, now)
    claim = repository.claim_due("retrier", POLICY, now, count)
    assert repository.settle(claim, DELIVERED, RULES, now + 8.0)


# Purge


def test_what_was_delivered_before_then_is_deleted_and_still_counted_as_sent(repository):
    fill(repository, 30)
    delivered(repository, 1, 10, now=100.0)
    delivered(repository, 1, 10, now=200.0)
    assert repository.purge(0, 150.0, NOW).messages == 10
    assert batch_ranges(repository) == [(1, 10, "PURGED"), (11, 20, "SENT")]
    assert list(statuses(repository)) == list(range(11, 31))
    counts = repository.counts()
    assert (counts.sent, counts.purged) == (20, 10)


def test_only_delivered_messages_are_purged(repository):
    fill(repository, 50)
    fail(repository, 10)
    park(repository, 10, "DEAD")
    park(repository, 10, "IN_DOUBT")
    repository.claim_fresh("sender", POLICY, 0.0, 10)
    before = batch_ranges(repository)
    assert repository.purge(0, EVERY, NOW) == ([], 31, True)
    assert batch_ranges(repository) == before


def test_purged_neighbours_melt_into_one_batch_range(repository):
    fill(repository, 50)
    for deliver_so in (deliver, deliver_again, deliver, deliver_again, deliver):
        deliver_so(repository, 10, now=1.0)
    repository.purge(0, 5.0, NOW)
    assert [status for *_, status in batch_ranges(repository)] == ["PURGED", "SENT"] * 2 + [
        "PURGED"
    ]
    repository.purge(0, EVERY, NOW)
    assert batch_ranges(repository) == [(1, 50, "PURGED")]


def test_purged_and_evicted_batch_ranges_do_not_melt_into_each_other(repository):
    fill(repository, 30)
    fail(repository, 10)
    deliver(repository, 10)
    fail(repository, 10)
    repository.purge(0, EVERY, NOW)
    while repository.evict_oldest("max_size", NOW):
        pass
    assert batch_ranges(repository) == [(1, 10, "EVICTED"), (11, 20, "PURGED"), (21, 30, "EVICTED")]


def test_a_purge_is_a_bounded_bite_and_goes_on_where_it_ended(repository):
    fill(repository, 450)
    delivered(repository, 450)
    after, ended, chunks = 0, False, []
    while not ended:
        chunk = repository.purge(after, EVERY, NOW)
        after, ended = chunk.after, chunk.ended
        chunks.append(chunk.messages)
    assert chunks == [200, 200, 50]
    assert batch_ranges(repository) == [(1, 450, "PURGED")]


def test_a_purge_of_large_batches_is_bounded_in_messages(repository):
    fill(repository, 9000)
    delivered(repository, 3, 3000)
    first = repository.purge(0, EVERY, NOW)
    assert first.messages == 6000
    assert not first.ended
    assert repository.purge(first.after, EVERY, NOW) == ([(6001, 9000)], 6001, True)


def test_the_walk_ends_before_the_first_fresh_batch_that_is_not_due(repository):
    """What was claimed later was settled later, but for what was tried again."""
    fill(repository, 100)
    deliver(repository, 1, now=1.0)
    deliver_again(repository, 1, now=2.0)
    fail(repository, 1)
    park(repository, 1)
    deliver(repository, 1, now=3.0)
    for second in range(20, 40):
        deliver(repository, 1, now=float(second))
    assert repository.purge(0, 5.0, NOW) == ([(1, 1), (5, 5)], 5, True)
    assert repository.purge(5, 5.0, NOW) == ([], 5, True)
    assert repository.purge(5, 20.0, NOW) == ([(6, 6)], 6, True)
    assert repository.purge(0, 20.0, NOW) == ([(2, 2)], 6, True), "what was passed over is found"


def test_what_is_being_sent_for_the_first_time_ends_the_walk_as_well(repository):
    """It is found when it is delivered, however short readings are kept."""
    fill(repository, 3)
    claim = repository.claim_fresh("sender", POLICY, 1.0, 1)
    deliver(repository, 1, now=2.0)
    assert repository.purge(0, 3.0, 3.0) == ([], 0, True)
    repository.settle(claim, DELIVERED, RULES, 3.0)
    assert repository.purge(0, 4.0, 4.0).messages == 2


def test_what_a_clock_that_was_ahead_has_claimed_holds_nothing_up(repository):
    fill(repository, 2)
    deliver(repository, 1, now=NOW + 1e6)
    deliver(repository, 1, now=1.0)
    assert repository.purge(0, 5.0, NOW).batch_ranges == [(2, 2)]
    assert repository.purge(0, NOW + 1e6, NOW + 1e6).batch_ranges == [(1, 1)]


def test_looking_for_what_is_due_takes_no_lock_where_there_is_nothing(place, repository):
    watch = LockCounter()
    with contextlib.closing(SensorDataSQLRepository(repository.path, watch)) as another:
        fill(repository, 2)
        deliver(repository, 1, now=1.0)
        before = watch.locked
        assert another.purge(0, 0.5, NOW).messages == 0
        assert watch.locked == before
        assert another.purge(0, 1.5, NOW).messages == 1
        assert watch.locked == before + 1


# Evict


def test_the_oldest_failed_batch_goes_first_then_the_oldest_pending(repository):
    fill(repository, 2500)
    deliver(repository, 100)
    fail(repository, 100, due_at=50.0)
    fail(repository, 100, due_at=10.0)
    assert [repository.evict_oldest("max_size", NOW) for _ in range(5)] == [100, 100, 2000, 200, 0]
    assert batch_ranges(repository) == [(1, 100, "SENT"), (101, 2500, "EVICTED")]
    assert list(statuses(repository)) == list(range(1, 101))
    assert repository.counts().evicted == 2400


def test_what_is_being_sent_is_never_evicted_nor_purged(repository):
    fill(repository, 20)
    repository.claim_fresh("sender", POLICY, 0.0, 10)
    repository.claim_fresh("sender", POLICY, 0.0, 10)
    assert repository.evict_oldest("max_size", NOW) == 0
    assert repository.evict_parked("parked", NOW) == 0
    assert repository.evict_older_than(10**15, NOW) == 0
    assert repository.purge(0, EVERY, NOW).messages == 0
    assert batch_ranges(repository) == [(1, 10, "SENDING"), (11, 20, "SENDING")]


def test_pending_messages_can_be_evicted_above_what_is_being_sent(repository):
    fill(repository, 20)
    claim = repository.claim_fresh("sender", POLICY, 0.0, 10)
    assert repository.evict_oldest("max_size", NOW) == 10
    assert batch_ranges(repository) == [(1, 10, "SENDING"), (11, 20, "EVICTED")]
    assert len(repository.read_claim(claim)) == 10


def test_an_eviction_is_remembered_with_its_reason_and_ids(repository):
    fill(repository, 10)
    fail(repository, 4)
    repository.evict_oldest("min_free", NOW)
    repository.evict_oldest("min_free", NOW)
    sql = "SELECT detail, n, first, last FROM event WHERE kind = 'evicted'"
    assert rows(repository, sql) == [("min_free", 10, 1, 10)]


def test_the_oldest_parked_batch_is_evicted_whichever_it_is(repository):
    fill(repository, 40)
    fail(repository, 10)
    for status in ("IN_DOUBT", "DEAD"):
        park(repository, 10, status)
    assert [repository.evict_parked("parked", NOW) for _ in range(3)] == [10, 10, 0]
    assert batch_ranges(repository) == [(1, 10, "FAILED"), (11, 30, "EVICTED")]


def test_new_ids_follow_what_was_evicted(repository):
    fill(repository, 10)
    repository.evict_oldest("max_size", NOW)
    fill(repository, 5)
    assert repository.claim_fresh("sender", POLICY, NOW, 10).first_id == 11


# max_age


def test_pending_messages_older_than_max_age_are_evicted_and_younger_ones_stay(repository):
    fill(repository, 10)  # one a second
    assert repository.evict_older_than(4 * SECOND_US, NOW) == 4
    assert repository.evict_older_than(4 * SECOND_US, NOW) == 0
    assert batch_ranges(repository) == [(1, 4, "EVICTED")]
    assert events(repository, "evicted") == ["older than max_age"]


def test_a_failed_batch_loses_only_the_messages_that_are_too_old(repository):
    fill(repository, 20)
    fail(repository, 10)
    assert repository.evict_older_than(4 * SECOND_US, NOW) == 4
    assert repository.evict_older_than(4 * SECOND_US, NOW) == 0
    assert batch_ranges(repository) == [(1, 4, "EVICTED"), (5, 10, "FAILED")]


def test_a_failed_batch_that_is_all_too_old_goes_whole(repository):
    fill(repository, 20)
    fail(repository, 10)
    assert repository.evict_older_than(15 * SECOND_US, NOW) == 10
    assert repository.evict_older_than(15 * SECOND_US, NOW) == 5
    assert batch_ranges(repository) == [(1, 15, "EVICTED")]


@pytest.mark.parametrize("prepare", [fail, lambda repository, count: None], ids=["failed", "fresh"])
def test_eviction_by_age_is_a_bounded_bite(repository, prepare):
    fill(repository, 5000)
    prepare(repository, 5000)
    chunks = []
    while chunks[-1:] != [0]:
        chunks.append(repository.evict_older_than(4500 * SECOND_US, NOW))
    assert chunks == [2000, 2000, 500, 0]


def test_nothing_young_is_evicted_for_its_age(repository):
    fill(repository, 10, first_us=50)
    fail(repository, 5)
    assert repository.evict_older_than(50, NOW) == 0


def test_in_an_empty_queue_there_is_nothing_to_give_up(repository):
    assert repository.purge(0, EVERY, NOW) == ([], 0, True)
    assert repository.evict_oldest("max_size", NOW) == 0
    assert repository.evict_older_than(10**15, NOW) == 0
    assert repository.evict_parked("parked", NOW) == 0


def test_messages_of_a_damaged_database_that_are_gone_do_not_stop_eviction(unaudited):
    fill(unaudited, 10)
    fail(unaudited, 5)
    execute(unaudited, "DELETE FROM message WHERE id BETWEEN 1 AND 7")
    assert unaudited.evict_oldest("max_size", NOW) == 5
    assert unaudited.evict_oldest("max_size", NOW) == 5
