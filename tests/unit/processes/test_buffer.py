"""P3 in memory: what is put into the buffer comes out, or is counted with its reason and range."""

from dataclasses import replace
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from sensor_node.core.model import Dropped, Reading
from sensor_node.processes import buffer as module
from sensor_node.processes.buffer import MOST_SIMULATED, Buffer
from sensor_node.sensors import SOURCES
from sensor_node.sensors.source import SensorConfig

SIMULATED, REAL, _ = SOURCES
MOCK = SensorConfig("mock", SIMULATED, 1.0, {})
HOST = SensorConfig("host", REAL, 1.0, {})


def buffer_of(*sensors, between_commits=0.0):
    return Buffer(sensors, between_commits)


def readings(count, first_us=0):
    return [Reading("room", 1.0, first_us + i) for i in range(count)]


def taken(buffer, most=10**9):
    """Everything in the buffer, as the writer takes it, and the account of what was dropped."""
    chunks, dropped = buffer.oldest(most), buffer.dropped()
    buffer.forget(sum(map(len, chunks)), dropped)
    return [reading for chunk in chunks for reading in chunk], dropped


def fill(buffer, first_us=0):
    """Readings of real sensors until there is no room. Returns how many there was room for."""
    count = 0
    while not buffer.dropped():
        buffer.add("host", readings(1, first_us + count))
        count += 1
    buffer.forget(0, buffer.dropped())
    return count - 1


def test_a_minute_of_2500_real_readings_a_second_fits_however_few_ticks_they_come_in() -> None:
    """It is readings that count: a tick of a command may bring 32,768."""
    buffer = buffer_of(replace(HOST, rate=0.01))
    for second in range(60):
        buffer.add("host", readings(2500, second * 1_000_000))
    assert buffer.dropped() == []


def test_what_one_command_may_print_fits_into_an_empty_buffer(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_REAL", 100)
    buffer = buffer_of(MOCK, HOST)
    buffer.add("mock", readings(buffer.simulated_room()))
    buffer.add("host", readings(32_768))
    assert buffer.dropped() == []
    buffer.add("host", readings(1))
    assert buffer.dropped() == [Dropped("buffer full", 1, 0, 0)]


def test_a_sensor_that_floods_the_buffer_leaves_the_others_their_share(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_REAL", 100)
    others = [replace(HOST, name=f"other {i}") for i in range(3)]
    buffer = buffer_of(replace(HOST, name="flood"), *others)
    for _ in range(200):
        buffer.add("flood", readings(1))
    for sensor in others:
        for _ in range(25):
            buffer.add(sensor.name, readings(1))
    assert buffer.dropped() == [Dropped("buffer full", 100, 0, 0)]
    for sensor in others:
        buffer.add(sensor.name, readings(1))
    kept, dropped = taken(buffer)
    assert dropped == [Dropped("buffer full", 103, 0, 0)]
    assert len(kept) == 175  # never twice the bound


def test_what_is_taken_out_makes_room_for_its_sensor(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_REAL", 100)
    buffer = buffer_of(HOST)
    for _ in range(3):
        for _ in range(100):
            buffer.add("host", readings(1))
        kept, dropped = taken(buffer)
        assert (len(kept), dropped) == (100, [])


def test_what_is_forgotten_is_told_with_its_sensor() -> None:
    buffer = buffer_of(HOST, MOCK)
    buffer.add("host", readings(2, 10))
    buffer.add("mock", readings(3, 20))
    assert buffer.forget(3, []) == [("host", readings(2, 10)), ("mock", readings(1, 20))]
    assert buffer.forget(2, []) == [("mock", readings(3, 20)[1:])]


def test_half_full_is_long_before_anything_has_to_wait() -> None:
    buffer = buffer_of(replace(MOCK, rate=100))
    assert not buffer.is_half_full()
    while not buffer.is_half_full():
        buffer.add("mock", readings(100))
    assert buffer.simulated_room() >= 6000 / 3


def test_half_full_of_real_readings_is_half_of_what_there_is_room_for(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_REAL", 100)
    buffer = buffer_of(HOST)
    buffer.add("host", readings(49))
    assert not buffer.is_half_full()
    buffer.add("host", readings(1))
    assert buffer.is_half_full()


def test_simulated_and_real_readings_take_no_room_from_each_other(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_REAL", 6000)
    buffer = buffer_of(replace(MOCK, rate=100), replace(HOST, rate=100))
    buffer.add("mock", readings(buffer.simulated_room()))
    assert buffer.simulated_room() == 0
    assert fill(buffer) == 6000


def test_simulated_readings_never_take_more_room_than_the_limit() -> None:
    assert buffer_of(replace(MOCK, rate=1e6)).simulated_room() == MOST_SIMULATED


def test_memory_does_not_grow_however_long_the_writer_waits(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_REAL", 1000)
    buffer = buffer_of(replace(HOST, rate=10))
    room = fill(buffer)
    for first_us in range(10_000, 20_000):
        buffer.add("host", readings(1, first_us))
    kept, dropped = taken(buffer)
    assert len(kept) == room
    assert dropped == [Dropped("buffer full", 10_000, 10_000, 19_999)]


def test_readings_stay_until_they_are_forgotten_and_come_in_order() -> None:
    buffer = buffer_of(HOST)
    buffer.add("host", readings(2, 10))
    buffer.add("host", readings(3, 20))
    assert buffer.oldest(100) == buffer.oldest(100) == [readings(2, 10), readings(3, 20)]
    buffer.forget(3, [])
    assert buffer.oldest(100) == [readings(3, 20)[1:]]
    buffer.forget(2, [])
    assert buffer.oldest(100) == []


def test_the_oldest_are_as_many_as_asked_for_however_long_a_turn_is() -> None:
    """A commit of a whole turn of 32,768 would hold the write lock for too long."""
    buffer = buffer_of(HOST)
    for first_us in range(0, 100, 10):
        buffer.add("host", readings(10, first_us))
    assert sum(map(len, buffer.oldest(25))) == 25
    assert sum(map(len, buffer.oldest(30))) == 30


def test_readings_added_while_the_writer_commits_are_not_forgotten() -> None:
    buffer = buffer_of(HOST)
    buffer.add("host", readings(1, 1))
    assert len(buffer.oldest(10)) == 1
    buffer.add("host", readings(1, 2))
    buffer.forget(1, [])
    assert buffer.oldest(10) == [readings(1, 2)]


def test_what_does_not_fit_is_dropped_for_the_trouble_that_the_writer_has(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_REAL", 10)
    buffer = buffer_of(HOST)
    fill(buffer)
    buffer.trouble = "disk full"
    buffer.add("host", readings(3, 500))
    assert buffer.dropped() == [Dropped("disk full", 3, 500, 502)]


def test_a_reason_has_one_account_with_the_whole_range() -> None:
    buffer = buffer_of(HOST)
    buffer.drop("late", 2, 50, 60)
    buffer.drop("asleep", 1, 5, 6)
    buffer.drop("late", 3, 40, 70)
    buffer.drop("late", 1, 45, 46)
    assert buffer.dropped() == [Dropped("late", 6, 40, 70), Dropped("asleep", 1, 5, 6)]


def test_what_is_dropped_while_the_writer_commits_is_not_forgotten() -> None:
    buffer = buffer_of(HOST)
    buffer.drop("late", 2, 10, 20)
    written = buffer.dropped()
    buffer.drop("late", 3, 30, 40)
    buffer.forget(0, written)
    [left] = buffer.dropped()
    assert (left.count, left.last_us) == (3, 40)
    buffer.forget(0, [left])
    assert buffer.dropped() == []


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 500)), max_size=60))
def test_every_reading_comes_out_once_in_order_or_is_counted(steps) -> None:
    """Chunks of any length; the writer comes by now and then and has room for some of it."""
    with mock.patch.object(module, "MOST_REAL", 1000):
        put_and_take(steps)


def put_and_take(steps) -> None:
    buffer = buffer_of(HOST, replace(HOST, name="other"))
    added, out, counted = 0, [], 0
    for length, room in steps:
        buffer.add("host" if length % 3 else "other", readings(length, added))
        added += length
        kept = [reading for chunk in buffer.oldest(300) for reading in chunk][:room]
        dropped = buffer.dropped()
        buffer.forget(len(kept), dropped)
        out += kept
        counted += sum(drop.count for drop in dropped)
    kept, dropped = taken(buffer)
    out += kept
    assert added == len(out) + counted + sum(drop.count for drop in dropped)
    times = [reading.timestamp_us for reading in out]
    assert times == sorted(set(times))
