"""Ticks are on an absolute grid: rate × time readings, and every tick is taken or accounted for."""

import math
import threading
from dataclasses import replace

import pytest
from clocks import WALL, ManualClock
from hypothesis import example, given
from hypothesis import strategies as st

from sensor_node.config import SensorConfig
from sensor_node.config_schema import options_of
from sensor_node.errors import SourceError
from sensor_node.model import Dropped, Reading
from sensor_node.processes.buffer import Buffer
from sensor_node.processes.sampler import FULL_WAIT_SECONDS, TICKS_A_TURN, Sampler, Sensor
from sensor_node.sensors.mock import MockSource

DEFAULTS = {
    name: option.kind.parse(option.default) for name, option in options_of("sensor").items()
}
MOCK = SensorConfig(name="room", **DEFAULTS)
WALL_US = int(WALL * 1e6)


class RealSource:
    """Gives the values that it is told to, one a tick; an exception is raised instead."""

    makes_up_late_ticks = False

    def __init__(self):
        self.values = []
        self.asked = []
        self.closed = False

    def read(self, first_tick, timestamps_us):
        self.asked.append((first_tick, list(timestamps_us)))
        value = self.values.pop(0) if self.values else 20.0
        if isinstance(value, Exception):
            raise value
        several = value if isinstance(value, list) else [value]
        return [Reading("room", one, timestamps_us[0]) for one in several]

    def close(self):
        self.closed = True


class Node:
    """One sensor with its buffer, and a clock."""

    def __init__(self, source=None, rate=1.0):
        self.clock = ManualClock()
        self.source = source or MockSource(replace(MOCK, rate=rate))
        kind = "mock" if self.source.makes_up_late_ticks else "host"
        config = replace(MOCK, source=kind, rate=rate)
        self.buffer = Buffer((config,), 0.0)
        self.sensor = Sensor(config, self.source, self.buffer, self.clock.now())
        self.turns = 0
        self.sampler = Sampler([self.sensor], self.clock, self.turned)

    def turned(self):
        self.turns += 1

    def turn(self):
        return self.sampler.turn(self.clock.now())

    def catch_up(self):
        """Turn until nothing is due; the buffer is emptied as a writer would. Returns readings."""
        readings = self.taken()
        while self.turn() <= 0 and (more := self.taken()):
            readings += more
        return readings + self.taken()

    def taken(self):
        chunks = self.buffer.oldest(10**9)
        self.buffer.forget(sum(map(len, chunks)), [])
        return [reading for chunk in chunks for reading in chunk]

    def ticks(self):
        """When the readings since the last look were captured, in µs since the start."""
        return [reading.timestamp_us - WALL_US for reading in self.taken()]

    def dropped(self):
        """(reason, count, first, last) with times in µs since the start."""
        return [
            (drop.reason, drop.count, drop.first_us - WALL_US, drop.last_us - WALL_US)
            for drop in self.buffer.dropped()
        ]


def real(rate=1.0, *values):
    source = RealSource()
    source.values = list(values)
    return Node(source, rate)


class TestTheGrid:
    def test_the_first_tick_is_at_once_and_the_next_one_a_period_later(self) -> None:
        node = Node(rate=4)
        assert node.turn() == pytest.approx(0.25)
        node.clock.advance(0.25)
        assert node.turn() == pytest.approx(0.25)
        assert node.ticks() == [0, 250_000]

    def test_a_turn_too_early_takes_nothing_and_waits_for_the_rest(self) -> None:
        node = Node(rate=1)
        node.turn()
        node.clock.advance(0.25)
        assert node.turn() == pytest.approx(0.75)
        assert len(node.taken()) == 1

    def test_lateness_of_a_turn_does_not_move_the_grid(self) -> None:
        node = real(rate=1)
        for _ in range(100):
            node.turn()
            node.clock.advance(1.125)
        ticks = node.ticks()
        assert all(tick % 1_000_000 == 0 for tick in ticks)

    @given(st.floats(0.001, 500), st.floats(0, 50))
    @example(1 / 32, 32)
    def test_there_are_rate_times_time_readings(self, rate, seconds) -> None:
        node = Node(rate=rate)
        node.clock.advance(seconds)
        readings = node.catch_up()
        assert abs(len(readings) - (math.floor(rate * seconds) + 1)) <= 1
        assert not node.dropped()

    def test_a_million_a_second_are_taken_in_bounded_turns(self) -> None:
        node = Node(rate=1e6)
        node.clock.advance(1 / 64)
        assert node.turn() == 0.0
        assert len(node.taken()) == TICKS_A_TURN
        assert len(node.catch_up()) == 15_626 - TICKS_A_TURN

    def test_a_reading_has_the_time_of_its_tick_by_the_wall_clock_as_it_is_now(self) -> None:
        node = Node(rate=1)
        node.turn()
        node.clock.advance(1)
        node.clock.wall += 3600
        node.turn()
        assert node.ticks() == [0, 3_601_000_000]

    def test_a_wall_clock_that_jumps_adds_and_loses_no_tick(self) -> None:
        node = real(rate=1)
        for step in (0, 86_400, -172_800, 0):
            node.clock.wall += step
            node.turn()
            node.clock.advance(1)
        assert len(node.taken()) == 4
        assert node.dropped() == []


class TestLateTicks:
    def test_of_a_simulated_sensor_are_made_up_with_their_own_times(self) -> None:
        node = Node(rate=2)
        node.turn()
        node.clock.advance(30)
        readings = node.catch_up()
        assert [r.timestamp_us - WALL_US for r in readings] == [i * 500_000 for i in range(61)]
        assert node.dropped() == []

    def test_of_a_simulated_sensor_are_made_up_for_a_minute_at_most(self) -> None:
        node = Node(rate=2)
        node.clock.advance(100)
        readings = node.catch_up()
        assert len(readings) == 120
        assert readings[-1].timestamp_us - WALL_US == 100_000_000
        assert node.dropped() == [("late", 81, 0, 40_000_000)]

    def test_of_a_slow_simulated_sensor_the_last_one_is_always_taken(self) -> None:
        node = Node(rate=0.001)
        node.turn()
        node.taken()
        node.clock.advance(1001)
        node.turn()
        assert node.ticks() == [1_000_000_000]

    def test_of_a_real_sensor_are_dropped_but_for_the_present_one(self) -> None:
        node = real(rate=1)
        node.turn()
        node.clock.advance(5.5)
        assert node.turn() == pytest.approx(0.5)
        assert node.ticks() == [0, 5_000_000]
        assert node.dropped() == [("late", 4, 1_000_000, 4_000_000)]
        assert [tick for tick, _ in node.source.asked] == [0, 5]

    def test_of_a_real_sensor_are_late_whatever_trouble_the_writer_has(self) -> None:
        node = real(rate=1)
        node.buffer.trouble = "disk full"
        node.clock.advance(2)
        node.turn()
        assert node.dropped() == [("late", 2, 0, 1_000_000)]

    def test_that_wait_for_room_too_long_are_dropped_for_the_writers_trouble(self) -> None:
        node = Node(rate=100)
        node.buffer.trouble = "disk full"
        node.clock.advance(59)
        while node.turn() == 0.0:
            pass
        node.clock.advance(600)
        while node.turn() == 0.0:
            pass
        assert node.turn() == FULL_WAIT_SECONDS
        [(reason, count, first, last)] = node.dropped()
        assert reason == "disk full"
        # What was taken before and what is a minute old at most are on either side of it.
        assert (first, last) == (59_010_000, 599_000_000)
        assert len(node.catch_up()) + count == 65_901

    @given(st.lists(st.floats(0, 200), max_size=12), st.sampled_from([0.01, 1.0, 7.3]))
    def test_every_tick_is_taken_or_counted(self, pauses, rate) -> None:
        for node in (Node(rate=rate), real(rate)):
            taken = 0
            for pause in pauses:
                node.clock.advance(pause)
                taken += len(node.catch_up())
            taken += len(node.catch_up())
            counted = sum(count for _, count, _, _ in node.dropped())
            elapsed = node.clock.monotonic - 1000.0
            assert taken + counted == math.floor(elapsed * rate) + 1


class TestASuspendedMachine:
    def test_counts_what_it_slept_through(self) -> None:
        node = real(rate=2)
        node.turn()
        node.clock.suspend(600)
        node.turn()
        assert node.dropped() == [("asleep", 1200, 0, 600_000_000)]

    def test_makes_nothing_up_afterwards(self) -> None:
        node = Node(rate=2)
        node.turn()
        node.clock.suspend(600)
        node.clock.advance(0.5)
        assert len(node.catch_up()) == 2
        assert node.dropped() == [("asleep", 1200, 500_000, 600_500_000)]

    def test_is_one_that_slept_for_a_second_at_least(self) -> None:
        node = real(rate=2)
        node.turn()
        for _ in range(5):
            node.clock.boottime += 0.9
            node.turn()
        assert node.dropped() == []

    def test_before_the_first_turn_is_none_of_our_business(self) -> None:
        node = real(rate=2)
        node.clock.boottime += 10_000
        node.turn()
        assert node.dropped() == []


class TestASensorThatFails:
    def test_is_counted_under_its_name_and_goes_on(self) -> None:
        node = real(1.0, SourceError("no such file"), 20.0)
        node.turn()
        node.clock.advance(1)
        node.turn()
        assert node.ticks() == [1_000_000]
        assert node.dropped() == [("sensor room failed", 1, 0, 0)]

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_by_giving_no_finite_number_is_refused_and_counted(self, value) -> None:
        node = real(1.0, [20.0, value, 21.0])
        node.turn()
        assert [reading.value for reading in node.taken()] == [20.0, 21.0]
        assert node.dropped() == [("sensor room gave nan or infinity", 1, 0, 0)]

    @pytest.mark.parametrize("value", [-0.0, 5e-324, 1.7976931348623157e308, 0.1])
    def test_is_not_one_that_gives_an_odd_finite_number(self, value) -> None:
        node = real(1.0, value)
        node.turn()
        [reading] = node.taken()
        assert math.copysign(1, reading.value) == math.copysign(1, value)
        assert reading.value == value

    def test_writes_one_log_line_a_minute(self, caplog) -> None:
        node = real(1.0, *[SourceError("no such file")] * 120)
        for _ in range(120):
            node.turn()
            node.clock.advance(1)
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 2
        assert lines[1].endswith("skipped=59")


class TestTheThread:
    def test_tells_whoever_waits_after_each_turn(self) -> None:
        node = Node()
        node.turn()
        node.turn()
        assert node.turns == 2

    def test_takes_the_first_reading_and_ends_when_asked(self) -> None:
        node = real(rate=0.001)
        first = threading.Event()
        sampler = Sampler([node.sensor], node.clock, first.set)
        sampler.start()
        assert first.wait(30)
        sampler.ask_to_stop()
        sampler.join(30)
        assert not sampler._thread.is_alive()
        assert node.source.closed
        assert len(node.taken()) == 1

    def test_need_not_have_been_started_to_be_waited_for(self) -> None:
        node = real()
        node.sampler.ask_to_stop()
        node.sampler.join(30)

    def test_comes_back_for_whichever_sensor_is_due_first(self) -> None:
        slow, quick = Node(rate=0.1), Node(rate=10)
        sampler = Sampler([slow.sensor, quick.sensor], slow.clock, slow.turned)
        assert sampler.turn(slow.clock.now()) == pytest.approx(0.1)


def test_a_drop_says_when_in_microseconds() -> None:
    node = real(rate=1)
    node.clock.advance(1)
    node.turn()
    assert node.buffer.dropped() == [Dropped("late", 1, WALL_US, WALL_US)]
