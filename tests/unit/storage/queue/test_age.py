"""What is older than `max_age` goes, and nothing else, in whatever order the clock gave times."""

from storage_fixtures import batch, batch_ranges, deliver, fail, fill

from sensor_node.core.clock import Moment

HOUR = 3600.0


def test_a_young_delivered_reading_below_keeps_no_old_one(repository):
    fill(repository, 1, first_us=900_000_000)
    fill(repository, 3)
    deliver(repository, 1)
    assert repository.evict_older_than(500_000_000, 1000.0) == 3
    assert batch_ranges(repository) == [(1, 1, "SENT"), (2, 4, "EVICTED")]


def test_after_a_clock_was_set_back_only_what_was_captured_before_is_evicted(repository):
    """The later readings have smaller times and are younger."""
    repository.note_clock(Moment(0.0, 5000.0, 0.0), "a boot")
    fill(repository, 3, first_us=5_000_000_000, now=5000.0)
    repository.note_clock(Moment(10.0, 5010.0 - HOUR, 10.0), "a boot")
    fill(repository, 3, first_us=1_560_000_000, now=1560.0)
    assert repository.evict_older_than(1_550_000_000, 1600.0) == 3
    assert batch_ranges(repository) == [(1, 3, "EVICTED")]


def test_what_was_evicted_says_when_and_no_error_any_more(repository):
    fill(repository, 3)
    fail(repository, 3, now=10.0)
    assert batch(repository, 1, "last_error", "settled_at") == ("connection refused", 10.0)
    assert repository.evict_oldest("max_size", 1000.0) == 3
    assert batch(repository, 1, "status", "last_error", "settled_at") == ("EVICTED", None, 1000.0)
