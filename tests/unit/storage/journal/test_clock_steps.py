"""A wall clock that was set: what waits goes on, and nothing is older than it is."""

import pytest
from clocks import WALL, ManualClock
from storage_fixtures import POLICY, RULES, UNREACHABLE, batch, events, fail, fill, rows, set_sink

from sensor_node.storage.engine.connection import read_transaction
from sensor_node.storage.journal import clock_steps
from sensor_node.storage.queue import lookup

BOOT, NEXT_BOOT = "boot-1", "boot-2"
HOUR = 3600.0
YEARS = 3650 * 24 * HOUR
MINUTE_US = 60 * 1_000_000


def us(wall):
    return int(wall * 1e6)


def old(repository, clock, max_age):
    """How many messages are given up as older than that."""
    given_up = 0
    limit_us = us(clock.wall - max_age)
    while n := repository.evict_older_than(limit_us, clock.wall):
        given_up += n
    return given_up


@pytest.fixture
def clock(repository):
    clock = ManualClock()
    repository.note_clock(clock.now(), BOOT)
    return clock


def set_by(clock, repository, seconds, boot=BOOT):
    clock.wall += seconds
    repository.note_clock(clock.now(), boot)


class TestAges:
    def test_are_what_has_passed_on_either_side_of_a_leap(self, repository, clock) -> None:
        fill(repository, 10, first_us=us(clock.wall))
        clock.advance(100)
        set_by(clock, repository, YEARS)
        fill(repository, 10, first_us=us(clock.wall))
        clock.advance(100)
        assert old(repository, clock, max_age=250) == 0
        assert old(repository, clock, max_age=150) == 10
        assert [row[0] for row in rows(repository, "SELECT min(id) FROM message")] == [11]
        assert old(repository, clock, max_age=50) == 10

    def test_add_up_over_leaps_to_and_fro(self, repository, clock) -> None:
        fill(repository, 5, first_us=us(clock.wall))
        for seconds in (YEARS, -HOUR, -YEARS, 2 * HOUR):
            clock.advance(10)
            set_by(clock, repository, seconds)
        assert old(repository, clock, max_age=50) == 0
        clock.advance(20)
        assert old(repository, clock, max_age=50) == 5

    def test_of_what_came_from_the_future_are_right_as_well(self, repository, clock) -> None:
        clock.wall += YEARS
        repository.note_clock(clock.now(), BOOT)
        fill(repository, 5, first_us=us(clock.wall))
        set_by(clock, repository, -YEARS)
        clock.advance(60)
        assert old(repository, clock, max_age=100) == 0
        assert old(repository, clock, max_age=50) == 5

    def test_of_one_batch_that_a_leap_went_through_are_told_apart(self, repository, clock) -> None:
        fill(repository, 5, first_us=us(clock.wall))
        clock.advance(100)
        set_by(clock, repository, YEARS)
        fill(repository, 5, first_us=us(clock.wall))
        fail(repository, 10)
        assert old(repository, clock, max_age=50) == 5
        assert old(repository, clock, max_age=50) == 0

    @pytest.mark.parametrize("had_to_wait", [False, True])
    @pytest.mark.parametrize("seconds", [YEARS, HOUR, -HOUR, -YEARS])
    def test_are_right_for_what_came_before_the_leap_was_noticed_or_noted(
        self, repository, clock, seconds, had_to_wait
    ) -> None:
        fill(repository, 5, first_us=us(clock.wall))
        clock.advance(5)
        clock.wall += seconds
        noticed = clock.now()
        fill(repository, 5, first_us=us(clock.wall))
        clock.advance(5)
        repository.note_clock(noticed if had_to_wait else clock.now(), BOOT)
        clock.advance(100)
        assert old(repository, clock, max_age=120) == 0
        assert old(repository, clock, max_age=107) == 2 + 1
        assert old(repository, clock, max_age=103) == 2 + 2
        assert old(repository, clock, max_age=50) == 3

    @pytest.mark.parametrize("seconds", [YEARS, HOUR, -HOUR, -YEARS])
    def test_are_right_for_what_was_stored_after_the_leap_was_noticed(
        self, repository, clock, seconds
    ) -> None:
        fill(repository, 5, first_us=us(clock.wall))
        captured_at = us(clock.wall) + 5_000_000
        clock.advance(10)
        set_by(clock, repository, seconds)
        fill(repository, 5, first_us=captured_at)
        fill(repository, 5, first_us=us(clock.wall))
        clock.advance(10)
        assert old(repository, clock, max_age=30) == 0
        assert old(repository, clock, max_age=13) == 7

    def test_do_not_count_what_a_boot_leaves_unknown(self, repository, clock) -> None:
        """First 1970, then the time from the network: days may have passed without power."""
        fill(repository, 5, first_us=us(clock.wall))
        clock.advance(60)
        repository.note_clock(clock.now(), BOOT)
        clock.wall, clock.boottime = 30.0, 30.0
        repository.note_clock(clock.now(), NEXT_BOOT)
        assert old(repository, clock, max_age=HOUR) == 0
        clock.advance(30)
        clock.wall = WALL + 7 * 24 * HOUR
        repository.note_clock(clock.now(), NEXT_BOOT)
        assert old(repository, clock, max_age=100) == 0
        assert old(repository, clock, max_age=80) == 5

    def test_are_right_on_both_sides_of_a_boot_in_1970(self, repository, clock) -> None:
        fill(repository, 5, first_us=us(clock.wall))
        clock.advance(60)
        repository.note_clock(clock.now(), BOOT)
        clock.wall, clock.boottime = 30.0, 30.0
        repository.note_clock(clock.now(), NEXT_BOOT)
        fill(repository, 5, first_us=us(clock.wall))
        clock.advance(30)
        clock.wall = WALL + 7 * 24 * HOUR
        repository.note_clock(clock.now(), NEXT_BOOT)
        clock.advance(10)
        assert old(repository, clock, max_age=110) == 0
        assert old(repository, clock, max_age=90) == 5
        assert old(repository, clock, max_age=30) == 5

    def test_are_right_for_what_was_captured_between_two_leaps(self, repository, clock) -> None:
        fill(repository, 5, first_us=us(clock.wall))
        set_by(clock, repository, YEARS)
        fill(repository, 5, first_us=us(clock.wall))
        set_by(clock, repository, -YEARS - HOUR)
        clock.advance(100)
        assert old(repository, clock, max_age=110) == 0
        assert old(repository, clock, max_age=90) == 10

    def test_of_the_undelivered_are_told_as_they_are(self, repository, clock) -> None:
        fill(repository, 5, first_us=us(clock.wall))
        set_by(clock, repository, YEARS)
        clock.advance(42)
        with read_transaction(repository.path) as connection:
            oldest = lookup.oldest_undelivered_us(connection)
        assert clock.wall - oldest / 1e6 == pytest.approx(42)

    def test_are_never_overstated_however_often_the_clock_is_set(self, repository, clock) -> None:
        fill(repository, 1, first_us=us(clock.wall))
        for turn in range(3 * clock_steps.MOST_STEPS):
            fill(repository, 1, first_us=us(clock.wall))
            set_by(clock, repository, HOUR if turn % 2 else -HOUR)
        [(size,)] = rows(repository, "SELECT length(value) FROM key_value WHERE name = 'clock'")
        assert size < 50 * clock_steps.MOST_STEPS
        assert old(repository, clock, max_age=10) == 0

    def test_need_no_steps_from_before_what_is_left(self, repository, clock) -> None:
        fill(repository, 5)
        set_by(clock, repository, HOUR)
        claim = repository.claim_fresh("sender", POLICY, clock.wall, 5)
        set_by(clock, repository, HOUR)
        with read_transaction(repository.path) as connection:
            assert clock_steps.since(connection, 1, 0) == (2 * HOUR, 5), "it may come back"
        repository.settle(claim, UNREACHABLE, RULES, clock.wall)
        old(repository, clock, max_age=0)
        repository.note_clock(clock.now(), BOOT)
        with read_transaction(repository.path) as connection:
            assert clock_steps.since(connection, 1, 0) == (0, None)


class TestWaits:
    @pytest.fixture
    def waiting(self, repository, clock):
        fill(repository, 5)
        fail(repository, 5, now=clock.wall, due_at=clock.wall + 100)
        probe_at, send_at = clock.wall + 200, clock.wall + 300
        set_sink(repository, next_probe_at=probe_at, next_send_at=send_at, since=clock.wall - 50)
        return repository

    def waits(self, repository, clock):
        [(batch_at,)] = [batch(repository, 1, "next_attempt_at")]
        [(probe_at, send_at)] = rows(repository, "SELECT next_probe_at, next_send_at FROM sink")
        return [at - clock.wall for at in (batch_at, probe_at, send_at)]

    @pytest.mark.parametrize("seconds", [-2.0, -1800.0, -YEARS])
    def test_end_when_the_clock_is_set_back(self, waiting, clock, seconds) -> None:
        set_by(clock, waiting, seconds)
        assert self.waits(waiting, clock) == [0, 0, 0]

    def test_are_over_anyway_when_it_is_set_forward(self, waiting, clock) -> None:
        set_by(clock, waiting, 1800.0)
        assert self.waits(waiting, clock) == [-1700, -1600, -1500]

    def test_stay_as_they_are_while_the_clock_goes_as_it_should(self, waiting, clock) -> None:
        clock.advance(10)
        repository = waiting
        repository.note_clock(clock.now(), BOOT)
        assert self.waits(repository, clock) == [90, 190, 290]

    def test_end_with_a_boot_after_which_nobody_knows(self, waiting, clock) -> None:
        clock.wall -= 1800
        waiting.note_clock(clock.now(), NEXT_BOOT)
        assert self.waits(waiting, clock) == [0, 0, 0]
        assert events(waiting, "clock step") == []

    @pytest.mark.parametrize("seconds", [1800.0, -1800.0, YEARS])
    def test_of_an_outage_have_lasted_as_long_as_before(self, waiting, clock, seconds) -> None:
        set_by(clock, waiting, seconds)
        [(since,)] = rows(waiting, "SELECT since FROM sink")
        assert clock.wall - since == 50

    def test_of_an_outage_that_began_since_are_not_made_longer(self, waiting, clock) -> None:
        clock.wall += 1800
        set_sink(waiting, since=clock.wall)
        clock.advance(1)
        waiting.note_clock(clock.now(), BOOT)
        [(since,)] = rows(waiting, "SELECT since FROM sink")
        assert clock.wall - since == 1
