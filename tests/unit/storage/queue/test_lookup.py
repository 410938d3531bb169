"""Every message can be looked up with its status, attempts and last error (P7)."""

import contextlib

import pytest
from storage_fixtures import (
    DELIVERED,
    ERROR,
    POLICY,
    RULES,
    UNREACHABLE,
    deliver,
    execute,
    fail,
    fill,
    park,
    rows,
)

from sensor_node.core.model import MessageStatus
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.queue import lookup

NOW = 1000.0
ALL = 0
SECOND_US = 1_000_000


def look(repository, function, *arguments):
    with contextlib.closing(open_reader(repository.path)) as connection:
        return function(connection, *arguments)


def messages(repository, status=None, since_us=ALL, limit=100):
    return look(repository, lookup.messages, status, since_us, limit)


def ids(found):
    return [row.id for row in found]


@pytest.fixture
def mixed(repository):
    """Five of each: SENT, FAILED, DEAD, IN_DOUBT, SENDING, PENDING, by id; one a second."""
    fill(repository, 30)
    deliver(repository, 5)
    fail(repository, 5)
    park(repository, 5, "DEAD")
    park(repository, 5, "IN_DOUBT")
    repository.claim_fresh("sender", POLICY, NOW, 5)
    return repository


BY_ID = ("SENT", "FAILED", "DEAD", "IN_DOUBT", "SENDING", "PENDING")


@pytest.mark.parametrize("status", MessageStatus)
def test_messages_of_each_status_are_found_newest_first(mixed, status):
    first = 5 * BY_ID.index(status) + 1
    found = messages(mixed, status)
    assert ids(found) == list(range(first + 4, first - 1, -1))
    assert {row.status for row in found} == {status}
    assert ids(messages(mixed, status, limit=2)) == [first + 4, first + 3]
    assert ids(messages(mixed, status, (first + 3) * SECOND_US)) == [first + 4]


def test_without_a_status_all_are_found_newest_first(mixed):
    found = messages(mixed)
    assert ids(found) == list(range(30, 0, -1))
    assert [row.status for row in found[::-5]] == list(BY_ID)
    assert ids(messages(mixed, None, 27 * SECOND_US)) == [30, 29, 28]
    assert ids(messages(mixed, limit=1)) == [30]


def test_a_message_shows_its_attempts_its_last_error_and_when_it_is_due(repository):
    fill(repository, 1)
    claim = repository.claim_fresh("sender", POLICY, NOW, 1)
    repository.settle(claim, ERROR, RULES, NOW)
    row = look(repository, lookup.message, 1)
    assert (row.status, row.attempts, row.last_error) == ("FAILED", 1, ERROR.detail)
    assert row.next_attempt_at == NOW
    assert row.wire_id == claim.stream.wire_id(1)
    assert (row.name, row.value, row.timestamp_us) == ("temperature", 0.0, 0)


def test_a_message_that_waits_for_nothing_shows_no_due_time(mixed):
    for message_id in (1, 11, 16, 21, 26):
        assert look(mixed, lookup.message, message_id).next_attempt_at is None


def test_a_message_that_goes_first_shows_no_due_time_of_1970(repository):
    fill(repository, 1)
    fail(repository, 1, due_at=0.0)
    assert look(repository, lookup.message, 1).next_attempt_at is None


def test_what_became_of_a_message_that_is_gone_is_known(repository):
    fill(repository, 30)
    deliver(repository, 10)
    repository.purge(0, None, NOW)
    fail(repository, 10)
    repository.evict_oldest("max_size", NOW)
    gone = [look(repository, lookup.discarded_as, i) for i in (1, 10, 11, 20)]
    assert gone == ["PURGED", "PURGED", "EVICTED", "EVICTED"]
    assert look(repository, lookup.message, 1) is None
    assert [look(repository, lookup.discarded_as, i) for i in (0, 21, 99)] == [None] * 3


def test_parked_batch_ranges_are_found_one_after_another(mixed):
    assert look(mixed, lookup.next_parked, "DEAD", 0) == (11, 15)
    assert look(mixed, lookup.next_parked, "DEAD", 11) is None
    assert look(mixed, lookup.next_parked, "IN_DOUBT", 0) == (16, 20)


def test_the_oldest_undelivered_message_is_pending_failed_or_being_sent(repository):
    def oldest():
        return look(repository, lookup.oldest_undelivered_us)

    assert oldest() is None
    fill(repository, 10)
    deliver(repository, 2)
    assert oldest() == 2 * SECOND_US
    repository.claim_fresh("sender", POLICY, NOW, 2)
    assert oldest() == 2 * SECOND_US
    repository.reclaim(3, "sender", NOW, at_most_once=False)
    assert oldest() == 2 * SECOND_US
    park(repository, 6)
    assert oldest() == 2 * SECOND_US
    execute(repository, "UPDATE batch SET status = 'DEAD' WHERE first_id = 3")
    execute(repository, "UPDATE message SET status = 'DEAD' WHERE id IN (3, 4)")
    assert oldest() is None


def test_the_view_shows_people_the_same_with_plain_sqlite(mixed):
    shown = dict(rows(mixed, "SELECT status, count(*) FROM message_status GROUP BY 1"))
    assert shown == dict.fromkeys(BY_ID, 5)
    [(attempts, error)] = rows(
        mixed, "SELECT attempts, last_error FROM message_status WHERE id = 6"
    )
    assert (attempts, error) == (1, "connection refused")


def stuck(repository, up_since=0.0):
    return look(repository, lookup.stuck, up_since)


def test_a_message_that_fails_by_itself_is_stuck_until_it_is_delivered(repository):
    """Not a batch of many, not what failed for the sink's sake, not what failed in an outage."""
    fill(repository, 6)
    for count, wait in ((1, 0.0), (2, 60.0), (1, 60.0)):
        fail(repository, count, NOW, NOW + wait)
    assert stuck(repository) == {"messages": 1, "reason": UNREACHABLE.detail}
    assert stuck(repository, up_since=NOW + 1) is None
    claim = repository.claim_due("retrier", POLICY, NOW + 60, 100)
    while claim.first_id != 4:
        assert repository.settle(claim, DELIVERED, RULES, NOW + 60)
        claim = repository.claim_due("retrier", POLICY, NOW + 60, 100)
    assert repository.settle(claim, DELIVERED, RULES, NOW + 60)
    assert stuck(repository) is None
