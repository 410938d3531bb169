"""A committed reading is never lost (P2), and one that was dropped is accounted for (P3)."""

import sqlite3

import pytest
from storage_fixtures import ROOM, audit, dump, events, fill, readings, rows

from sensor_node.core.model import Dropped, Reading
from sensor_node.storage.queue.room import SizeLimits

LATE = Dropped("late", 3, 1_000_000, 5_000_000)
NO_ROOM = SizeLimits(max_size=0, min_free=0)


def stored(repository):
    return rows(repository, "SELECT id, status, name, value, timestamp_us FROM message ORDER BY id")


def test_readings_are_stored_in_order_with_ids_without_gaps(repository):
    fill(repository, 2)
    fill(repository, 1, first_us=9)
    assert stored(repository) == [
        (1, "PENDING", "temperature", 0.0, 0),
        (2, "PENDING", "temperature", 1.0, 1_000_000),
        (3, "PENDING", "temperature", 0.0, 9),
    ]
    assert repository.counts().captured == repository.counts().pending == 3


def test_what_was_dropped_is_counted_with_its_reason_and_time_range(repository):
    assert repository.capture(readings(1), [LATE], 7.0, ROOM)
    assert repository.counts().dropped == 3
    found = rows(repository, "SELECT at, detail, n, first, last FROM event WHERE kind = 'dropped'")
    assert found == [(7.0, "late", 3, 1_000_000, 5_000_000)]


def test_drops_add_up_over_reasons_and_transactions(repository):
    asleep = Dropped("asleep", 10, 0, 1)
    repository.capture([], [LATE, asleep], 0.0, ROOM)
    repository.capture([], [LATE], 0.0, ROOM)
    assert repository.counts().dropped == 16
    assert rows(repository, "SELECT reason, n FROM dropped") == [("asleep", 10), ("late", 6)]


def test_without_room_nothing_is_stored_but_the_account_of_what_was_dropped(repository):
    assert not repository.capture(readings(5), [LATE], 0.0, NO_ROOM)
    counts = repository.counts()
    assert (counts.captured, counts.dropped) == (0, 3)


def test_a_capture_that_fails_half_way_leaves_nothing_behind(repository):
    fill(repository, 1)
    before = dump(repository)
    valueless = Reading("temperature", None, 1)
    with pytest.raises(sqlite3.IntegrityError):
        repository.capture([*readings(3), valueless], [LATE], 0.0, ROOM)
    assert dump(repository) == before
    fill(repository, 1)
    assert [row[0] for row in stored(repository)] == [1, 2]


def test_ids_are_never_used_again_even_when_every_message_is_gone(repository):
    fill(repository, 5)
    while repository.evict_oldest("max_size", 0.0):
        pass
    fill(repository, 1)
    assert [row[0] for row in stored(repository)] == [6]
    assert audit(repository) == []


def test_the_backlog_tells_how_many_are_pending_and_since_when(repository):
    assert (repository.backlog(0.0).pending, repository.backlog(0.0).oldest_pending_us) == (0, None)
    fill(repository, 3, first_us=50)
    backlog = repository.backlog(0.0)
    assert (backlog.pending, backlog.oldest_pending_us, backlog.sink.up) == (3, 50, True)


def test_another_process_s_commit_changes_the_version_and_our_own_does_not(repository, second):
    before = repository.version()
    fill(repository, 1)
    assert repository.version() == before
    fill(second, 1)
    assert repository.version() != before


def test_an_event_can_be_recorded(repository):
    repository.record_event(5.0, "clock step", "+3.0 s")
    assert events(repository, "clock step") == ["+3.0 s"]
