"""Ticks are on an absolute grid: rate × time readings, and every tick is taken or accounted for."""

import math
import threading

import pytest
from clocks import WALL, ManualClock
from hypothesis import example, given
from hypothesis import strategies as st

from sensor_node.core.errors import SourceError
from sensor_node.core.model import Dropped, Reading
from sensor_node.processes.buffer import Buffer
from sensor_node.processes.sampler import LEAST_WAIT_SECONDS, Sampler
from sensor_node.processes.sensor import FULL_WAIT_SECONDS, TICKS_A_READ, Sensor
from sensor_node.sensors import SOURCES
from sensor_node.sensors.mock import MockSettings, MockSource
from sensor_node.sensors.source import SensorConfig

SIMULATED, REAL, _ = SOURCES
WAVE = MockSettings("sine", 15.0, 25.0, period=60.0, noise=0.0, seed=None)
WALL_US = int(WALL * 1e6)


class RealSource:
    """Gives the values that it is told to, one a tick; an exception is raised instead."""

    def __init__(self):
        self.values = []
        self.asked = []
        self.closed = False
        # What goes on elsewhere while a read hangs.
        self.meanwhile = lambda: None

    def read(self, first_tick, timestamps_us):
        self.asked.append((first_tick, list(timestamps_us)))
        self.meanwhile()
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
        self.source = source or MockSource("room", rate, WAVE)
        row = SIMULATED if isinstance(self.source, MockSource) else REAL
        config = SensorConfig("room", row, rate, {})
        self.buffer = Buffer((config,), 0.0)
        self.sensor = Sensor(config, lambda: self.source, self.buffer, self.clock.now())
        self.turns = 0
        self.sampler = Sampler([self.sensor], self.clock, self.turned)

    def turned(self):
        self.turns += 1

    def take_due(self):
        return self.sampler.take_due(self.clock.now())

    def watch(self):
        """What the writer's thread sees."""
        [(name, account)] = self.sampler.watch(self.clock.now())
        assert name == "room"
        return account

    def catch_up(self):
        """Turn until nothing is due; the buffer is emptied as a writer would. Returns readings."""
        readings = self.taken()
        while self.take_due() <= 0 and (more := self.taken()):
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
        assert node.take_due() == pytest.approx(0.25)
        node.clock.advance(0.25)
        assert node.take_due() == pytest.approx(0.25)
        assert node.ticks() == [0, 250_000]

    def test_a_turn_too_early_takes_nothing_and_waits_for_the_rest(self) -> None:
        node = Node(rate=1)
        node.take_due()
        node.clock.advance(0.25)
        assert node.take_due() == pytest.approx(0.75)
        assert len(node.taken()) == 1

    def test_lateness_of_a_turn_does_not_move_the_grid(self) -> None:
        node = real(rate=1)
        for _ in range(100):
            node.take_due()
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
        assert node.take_due() == 0.0
        assert len(node.taken()) == TICKS_A_READ
        assert len(node.catch_up()) == 15_626 - TICKS_A_READ

    def test_a_reading_has_the_time_of_its_tick_by_the_wall_clock_as_it_is_now(self) -> None:
        node = Node(rate=1)
        node.take_due()
        node.clock.advance(1)
        node.clock.wall += 3600
        node.take_due()
        assert node.ticks() == [0, 3_601_000_000]

    def test_a_wall_clock_that_jumps_adds_and_loses_no_tick(self) -> None:
        node = real(rate=1)
        for step in (0, 86_400, -172_800, 0):
            node.clock.wall += step
            node.take_due()
            node.clock.advance(1)
        assert len(node.taken()) == 4
        assert node.dropped() == []


class TestLateTicks:
    def test_of_a_simulated_sensor_are_made_up_with_their_own_times(self) -> None:
        node = Node(rate=2)
        node.take_due()
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
        assert node.dropped() == [("sensor room late", 81, 0, 40_000_000)]

    def test_of_a_slow_simulated_sensor_the_last_one_is_always_taken(self) -> None:
        node = Node(rate=0.001)
        node.take_due()
        node.taken()
        node.clock.advance(1001)
        node.take_due()
        assert node.ticks() == [1_000_000_000]

    def test_of_a_real_sensor_are_dropped_but_for_the_present_one(self) -> None:
        node = real(rate=1)
        node.take_due()
        node.clock.advance(5.5)
        assert node.take_due() == pytest.approx(0.5)
        assert node.ticks() == [0, 5_000_000]
        assert node.dropped() == [("sensor room late", 4, 1_000_000, 4_000_000)]
        assert [tick for tick, _ in node.source.asked] == [0, 5]

    def test_of_a_real_sensor_are_late_whatever_trouble_the_writer_has(self) -> None:
        node = real(rate=1)
        node.buffer.trouble = "disk full"
        node.clock.advance(2)
        node.take_due()
        assert node.dropped() == [("sensor room late", 2, 0, 1_000_000)]

    def test_that_wait_for_room_too_long_are_dropped_for_the_writers_trouble(self) -> None:
        node = Node(rate=100)
        node.buffer.trouble = "disk full"
        node.clock.advance(59)
        while node.take_due() == 0.0:
            pass
        node.clock.advance(600)
        while node.take_due() == 0.0:
            pass
        assert node.take_due() == FULL_WAIT_SECONDS
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
        node.take_due()
        node.clock.suspend(600)
        node.take_due()
        assert node.dropped() == [("asleep", 1200, 0, 600_000_000)]

    def test_makes_nothing_up_afterwards(self) -> None:
        node = Node(rate=2)
        node.take_due()
        node.clock.suspend(600)
        node.clock.advance(0.5)
        assert len(node.catch_up()) == 2
        assert node.dropped() == [("asleep", 1200, 500_000, 600_500_000)]

    def test_is_one_that_slept_for_a_second_at_least(self) -> None:
        node = real(rate=2)
        node.take_due()
        for _ in range(5):
            node.clock.boottime += 0.9
            node.take_due()
        assert node.dropped() == []

    def test_before_the_first_turn_is_none_of_our_business(self) -> None:
        node = real(rate=2)
        node.clock.boottime += 10_000
        node.take_due()
        assert node.dropped() == []


class TestASensorThatFails:
    def test_is_counted_under_its_name_and_goes_on(self) -> None:
        node = real(1.0, SourceError("no such file"), 20.0)
        node.take_due()
        node.clock.advance(1)
        node.take_due()
        assert node.ticks() == [1_000_000]
        assert node.dropped() == [("sensor room failed", 1, 0, 0)]

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_by_giving_no_finite_number_is_refused_and_counted(self, value) -> None:
        node = real(1.0, [20.0, value, 21.0])
        node.take_due()
        assert [reading.value for reading in node.taken()] == [20.0, 21.0]
        assert node.dropped() == [("sensor room gave nan or infinity", 1, 0, 0)]

    @pytest.mark.parametrize("value", [-0.0, 5e-324, 1.7976931348623157e308, 0.1])
    def test_is_not_one_that_gives_an_odd_finite_number(self, value) -> None:
        node = real(1.0, value)
        node.take_due()
        [reading] = node.taken()
        assert math.copysign(1, reading.value) == math.copysign(1, value)
        assert reading.value == value

    def test_writes_one_log_line_a_minute(self, caplog) -> None:
        node = real(1.0, *[SourceError("no such file")] * 120)
        for _ in range(120):
            node.take_due()
            node.clock.advance(1)
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 2
        assert lines[1].endswith("skipped=59")


class TestAnUnforeseenException:
    """KeyError for a blank /proc/meminfo, ValueError for a NUL in a path, and whatever comes."""

    @pytest.mark.parametrize("error", [KeyError("MemTotal:"), ValueError("NUL"), MemoryError()])
    def test_costs_its_tick_and_no_other(self, error) -> None:
        node = real(1.0, error, 20.0)
        node.take_due()
        node.clock.advance(1)
        node.take_due()
        assert node.ticks() == [1_000_000]
        assert node.dropped() == [("sensor room failed", 1, 0, 0)]

    def test_is_logged_with_its_stack_but_not_each_time(self, caplog) -> None:
        node = real(1.0, *[KeyError("MemTotal:")] * 60)
        for _ in range(60):
            node.take_due()
            node.clock.advance(1)
        [record] = caplog.records
        assert "sensor_fault room: KeyError: 'MemTotal:'" in caplog.text
        assert record.exc_info
        assert "in read" in caplog.text

    def test_is_the_sensors_error_and_said_to_be_the_programs_fault(self) -> None:
        node = real(1.0, KeyError("MemTotal:"))
        node.take_due()
        account = node.watch()
        assert account.failing
        assert account.error.startswith("KeyError: 'MemTotal:'; this is a fault of the program")
        assert account.error_us == WALL_US

    def test_of_any_length_makes_a_short_error(self) -> None:
        node = real(1.0, ValueError("x" * 1_000_000))
        node.take_due()
        assert len(node.watch().error) < 600

    def test_while_the_source_is_opened_is_the_same_and_it_is_opened_again(self) -> None:
        node = real()
        fails = [KeyError("cpu"), None]

        def open_source():
            if error := fails.pop(0):
                raise error
            return node.source

        sensor = Sensor(node.sensor.config, open_source, node.buffer, node.clock.now())
        assert node.source.asked == []
        sensor.take_due(node.clock.now())
        assert node.dropped() == [("sensor room failed", 1, 0, 0)]
        sensor.take_due(node.clock.advance(1))
        sensor.take_due(node.clock.advance(1))
        assert node.ticks() == [1_000_000, 2_000_000]
        assert fails == []


class TestASourceThatHangs:
    """The writer's thread looks, each second, into what goes on during a read."""

    def hang(self, node, seconds):
        for _ in range(seconds):
            node.clock.advance(1)
            node.watch()

    def test_loses_its_ticks_while_it_hangs_and_not_afterwards(self) -> None:
        node = real(rate=1)
        counted = []

        def meanwhile():
            for _ in range(3):
                self.hang(node, 10)
                counted.append(node.dropped())

        node.source.meanwhile = meanwhile
        node.take_due()
        # The last one that is due may still be taken.
        assert [drops[0][:2] for drops in counted] == [("sensor room late", n) for n in (9, 19, 29)]
        node.source.meanwhile = lambda: None
        node.take_due()
        assert node.ticks() == [0, 30_000_000]
        assert node.dropped() == [("sensor room late", 29, 1_000_000, 29_000_000)]

    def test_takes_what_it_would_have_taken_had_nobody_looked(self) -> None:
        watched, unwatched = real(rate=3), real(rate=3)
        watched.source.meanwhile = lambda: self.hang(watched, 7)
        unwatched.source.meanwhile = lambda: unwatched.clock.advance(7)
        for node in (watched, unwatched):
            for _ in range(5):
                node.take_due()
                node.clock.advance(0.1)
            node.source.meanwhile = lambda: None
            node.take_due()
        assert watched.taken() == unwatched.taken()
        assert watched.dropped() == unwatched.dropped()

    def test_and_is_left_behind_at_the_end_has_its_tick_counted_once(self) -> None:
        node = real(rate=1)
        node.source.meanwhile = lambda: node.sensor.abandon(node.clock.now())
        node.take_due()
        assert node.taken() == []
        assert node.dropped() == [("sensor room late", 1, 0, 0)]

    def test_and_is_closed_has_not_failed(self) -> None:
        """At a stop or a reload its command is killed by us, and says that it was."""
        node = real(rate=1)
        node.source.values = [SourceError("was killed by signal 9; try it by hand")]
        node.source.meanwhile = node.sensor.close
        node.take_due()
        assert node.dropped() == [("sensor room late", 1, 0, 0)]
        assert not node.watch().failing

    def test_does_not_hide_that_the_machine_slept(self) -> None:
        node = real(rate=1)
        node.take_due()

        def meanwhile():
            node.clock.suspend(600)
            node.watch()
            assert ("asleep", 600) in [drop[:2] for drop in node.dropped()]

        node.source.meanwhile = meanwhile
        node.clock.advance(1)
        node.take_due()
        node.take_due()
        assert [drop[:2] for drop in node.dropped()] == [("asleep", 600)]

    def test_is_closed_though_it_was_being_opened(self) -> None:
        node = real()

        def open_source():
            sensor.close()
            return node.source

        sensor = Sensor(node.sensor.config, open_source, node.buffer, node.clock.now())
        sensor.take_due(node.clock.now())
        assert node.source.closed


class TestTheSumOfTicks:
    @given(
        st.lists(st.tuples(st.floats(0, 90), st.floats(0, 90), st.booleans()), max_size=12),
        st.sampled_from([0.01, 1.0, 7.3]),
        st.booleans(),
    )
    def test_is_whole_whatever_happens(self, steps, rate, simulated) -> None:
        node = Node(rate=rate) if simulated else real(rate)
        for pause, hang, fails in steps:
            node.clock.advance(pause)
            if not simulated:
                node.source.meanwhile = lambda hang=hang: (node.clock.advance(hang), node.watch())
                node.source.values = [SourceError("no")] if fails else []
            node.catch_up()
            account = node.watch()
            assert account.missing == 0
            due = math.floor((node.clock.monotonic - 1000.0) * rate) + 1
            assert account.taken + account.dropped <= due

    @pytest.mark.parametrize(("simulated", "kept"), [(False, 11), (True, 71)])
    def test_lacks_the_ticks_that_nobody_comes_for(self, simulated, kept) -> None:
        node = Node(rate=1) if simulated else real(rate=1)
        node.take_due()
        node.clock.advance(kept)
        assert node.watch().missing == 0
        node.clock.advance(9)
        assert node.watch().missing == 9
        node.catch_up()
        assert node.watch().missing == 0

    def test_lacks_what_was_lost_on_the_way(self) -> None:
        node = real(rate=1)
        node.sensor._give = lambda readings, refused, now: node.sensor._put_down()
        for _ in range(3):
            node.take_due()
            node.clock.advance(1)
        assert node.watch().missing == 3

    def test_has_nothing_to_do_with_what_waits_for_room(self) -> None:
        node = Node(rate=100)
        for _ in range(100):
            node.clock.advance(1)
            while node.take_due() == 0.0:
                pass
        beats = node.watch().beats
        assert node.take_due() == FULL_WAIT_SECONDS
        account = node.watch()
        assert account.missing == 0
        assert account.beats > beats, "it lives, and waits for the writer"


class TestWithoutAThread:
    """RuntimeError: the limit on processes."""

    @pytest.fixture
    def node(self, monkeypatch):
        node = real(rate=1)
        node.refused = RuntimeError("can't start new thread")
        node.starts = 0

        def start(thread):
            node.starts += 1
            if node.refused:
                raise node.refused

        monkeypatch.setattr(threading.Thread, "start", start)
        node.sampler.start(node.clock.now())
        return node

    def test_ticks_are_counted_with_what_is_to_be_done(self, node) -> None:
        node.clock.advance(5)
        account = node.watch()
        assert node.dropped() == [("sensor room failed", 5, 0, 4_000_000)]
        assert (account.failing, account.failures, account.missing) == (True, 5, 0)
        assert account.error.startswith("can't start new thread; raise the limit on processes")

    def test_it_is_tried_again_every_ten_seconds(self, node) -> None:
        for _ in range(35):
            node.clock.advance(1)
            node.watch()
        assert node.starts == 4
        node.refused = None
        for _ in range(35):
            node.clock.advance(1)
            node.watch()
        assert node.starts == 5

    def test_there_is_nobody_to_wait_for(self, node) -> None:
        node.sampler.ask_to_stop()
        node.sampler.join(30)
        node.sampler.settle(node.clock.now())


class TestTheThread:
    def test_that_ends_by_itself_says_why(self) -> None:
        node = real(rate=1)
        node.sensor.take_due = lambda now: 1 / 0
        node.sampler.start(node.clock.now())
        node.sampler.join(30)
        assert node.sampler.has_ended
        assert isinstance(node.sampler.failure, ZeroDivisionError)
        node.sampler.settle(node.clock.now())

    def test_tells_whoever_waits_after_each_turn(self) -> None:
        node = Node()
        node.take_due()
        node.take_due()
        assert node.turns == 2

    def test_takes_the_first_reading_and_ends_when_asked(self) -> None:
        node = real(rate=0.001)
        first = threading.Event()
        sampler = Sampler([node.sensor], node.clock, first.set)
        sampler.start(node.clock.now())
        assert first.wait(30)
        sampler.ask_to_stop()
        sampler.join(30)
        assert not sampler._thread.is_alive()
        assert node.source.closed
        assert len(node.taken()) == 1

    def test_leaves_the_machine_to_others_after_each_turn_of_a_fast_sensor(self) -> None:
        """A turn takes longer than a period: without a wait it would never end taking turns."""
        node, waits = Node(rate=50_000), []

        class Stop(threading.Event):
            def wait(self, timeout=None):
                waits.append(timeout)
                self.set()

        sampler = Sampler([node.sensor], node.clock, lambda: node.clock.advance(0.0001))
        sampler._stop = Stop()
        sampler._run()
        assert waits == [LEAST_WAIT_SECONDS]

    def test_need_not_have_been_started_to_be_waited_for(self) -> None:
        node = real()
        node.sampler.ask_to_stop()
        node.sampler.join(30)

    def test_comes_back_for_whichever_sensor_is_due_first(self) -> None:
        slow, quick = Node(rate=0.1), Node(rate=10)
        sampler = Sampler([slow.sensor, quick.sensor], slow.clock, slow.turned)
        assert sampler.take_due(slow.clock.now()) == pytest.approx(0.1)


def test_a_drop_says_when_in_microseconds() -> None:
    node = real(rate=1)
    node.clock.advance(1)
    node.take_due()
    assert node.buffer.dropped() == [Dropped("sensor room late", 1, WALL_US, WALL_US)]


def test_what_is_still_due_at_the_end_and_cannot_be_taken_any_more_is_counted() -> None:
    """Of a simulated sensor whose thread is not over, or for whose ticks there is no room."""
    node = Node(rate=100.0)
    node.clock.advance(5)
    node.sensor.abandon(node.clock.now())
    assert [drop[:2] for drop in node.dropped()] == [("sensor room late", 501)]
    node.take_due()
    assert node.taken() == []
