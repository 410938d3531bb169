"""Ages, gaps and the account go by when this node captured; a reading's own time is payload."""

import contextlib

import pytest
from storage_fixtures import POLICY, ROOM, WHO, audit, batch_ranges, events, fill, rows

from sensor_node.core.model import DatedReading
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.queue import lookup

DAY_US = 86_400_000_000
# Hands over yesterday's values, or what a clock of its own says of next year.
OWN = pytest.mark.parametrize("own_us", [-DAY_US, 365 * DAY_US], ids=("yesterday", "next year"))


def capture(repository, *at, own_us):
    """Readings captured at these seconds."""
    readings = [DatedReading("logger", 1.0, int(s * 1e6) + own_us, int(s * 1e6)) for s in at]
    assert repository.capture(readings, [], at[-1], ROOM) == len(readings)


@OWN
def test_a_reading_is_as_old_as_its_capture(repository, own_us) -> None:
    capture(repository, 1000.0, own_us=own_us)
    assert repository.backlog(0.0).oldest_pending_us == 1_000_000_000  # what send_interval goes by
    with contextlib.closing(open_reader(repository.path)) as connection:
        assert lookup.oldest_undelivered_us(connection) == 1_000_000_000  # what `behind` goes by


@OWN
def test_max_age_gives_up_what_was_captured_long_ago_and_nothing_else(repository, own_us) -> None:
    capture(repository, *range(1000, 1010), own_us=own_us)
    assert repository.evict_older_than(1_000_000_000, 1010.0) == 0
    assert repository.evict_older_than(1_004_000_000, 1010.0) == 4
    assert batch_ranges(repository) == [(1, 4, "EVICTED")]


@OWN
def test_a_successor_accounts_from_the_last_capture_on(repository, own_us) -> None:
    capture(repository, 1000.0, own_us=own_us)
    assert repository.begin_run(WHO, 1001.0, "a run") == 1_000_000_000


@OWN
def test_the_next_run_tells_of_the_gap_since_the_last_capture(repository, own_us) -> None:
    capture(repository, 1000.0, own_us=own_us)
    repository.begin_run(WHO, 1004.0, "another run")
    assert events(repository, "not running") == ["no capture for 4.0 s"]


@OWN
def test_what_a_reading_says_of_its_time_is_what_the_sink_gets(repository, own_us) -> None:
    capture(repository, 1000.0, own_us=own_us)
    claim = repository.claim_fresh("sender", POLICY, 1000.0, 1)
    assert [message.timestamp_us for message in repository.read_claim(claim)] == [
        1_000_000_000 + own_us
    ]


def test_the_time_of_capture_takes_no_room_where_it_is_the_readings_own(repository) -> None:
    fill(repository, 1, first_us=5)
    assert rows(repository, "SELECT timestamp_us, captured_us FROM message") == [(5, None)]
    shown = "SELECT timestamp_us, captured_us FROM message_status"
    assert rows(repository, shown) == [(5, 5)]
    assert audit(repository) == []
