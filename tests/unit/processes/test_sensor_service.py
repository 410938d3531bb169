"""P1, P2, P3 of capture: a reading is committed, or kept, or counted with its reason and range."""

import contextlib
import math
import os
import threading

import pytest
from clocks import WALL, ManualClock
from storage_fixtures import WHO, audit, events, rows

from sensor_node.config.loader import load_config
from sensor_node.core.errors import SourceError, StorageUnavailable
from sensor_node.core.model import Reading
from sensor_node.processes import buffer, sensor_service
from sensor_node.processes.sensor_service import (
    ACCOUNT_SECONDS,
    ASK_SECONDS,
    GROUP_COMMIT_SECONDS,
    HELD_SECONDS,
    IDLE_SECONDS,
    READINGS_A_COMMIT,
    SensorService,
    Start,
    commit_interval,
)
from sensor_node.storage.engine import quarantine
from sensor_node.storage.engine.checkpoint import WAL_EMERGENCY_BYTES
from sensor_node.storage.queue import room
from sensor_node.storage.queue.room import LOG_HELD, READING_BYTES, SizeLimits
from sensor_node.storage.repository import SensorDataSQLRepository

MOCK = "[sensor:room]\nrate = {}\n"
HOST = "[sensor:load]\nsource = host\nrate = {}\n"
# Then there is no room for readings, whatever the disk.
FULL = "[storage]\nmin_free = 1024GiB\nwhen_full = drop-newest\n"
EVICTING = FULL.replace("newest", "oldest")
LIMITLESS = SizeLimits(max_size=1 << 40, min_free=-(1 << 40))
DISK_FULL = StorageUnavailable("disk full", "telemetry.db: database or disk is full")


class RealSource:
    """Stands for any sensor that cannot be asked afterwards."""

    value = 20.0

    def read(self, first_tick, timestamps_us):
        if self.value is None:
            raise SourceError("no such file")
        return [Reading("load", self.value, timestamps_us[0])]

    def close(self):
        """Nothing is held."""


class Repository(SensorDataSQLRepository):
    """The real one; counts its transactions, and can be told to fail."""

    def __init__(self, path, node):
        self.node = node
        super().__init__(path, node, power_safe=True)

    def capture(self, readings, dropped, now, room, signs=(), *, waiting=False):
        self.node.fail_if_told("capture")
        if readings or dropped:
            self.node.sizes.append(len(readings))
        stored = super().capture(readings, dropped, now, room, signs, waiting=waiting)
        self.node.signs.append(signs)
        self.node.noted.append((len(signs), len(readings)))
        return stored

    def begin_run(self, who, now, run, *, follows=False):
        self.node.fail_if_told("begin_run")
        return super().begin_run(who, now, run, follows=follows)

    def log_is_held(self, min_free):
        self.node.asked_for_log += 1
        return self.node.log_held

    def wal_bytes(self):
        return self.node.wal_bytes or super().wal_bytes()

    def checkpoint(self, *, truncate):
        self.node.checkpoints.append(truncate)
        self.node.fail_if_told("checkpoint")
        return super().checkpoint(truncate=truncate)


class Node:
    """A generator whose threads do not run: the test takes their turns."""

    def __init__(self, place, text, *, run="a run", run_started=0.0, clock=None):
        file = place / "config.ini"
        file.write_text(text)
        self.config = load_config(file)
        self.config.state_directory.mkdir(exist_ok=True)
        self.clock = clock or ManualClock()
        self.failing = {}
        self.sizes = []
        # Of each transaction: the vital signs; how many, and with how many readings.
        self.signs = []
        self.noted = []
        self.checkpoints = []
        self.wal_bytes = 0
        self.log_held = False
        self.asked_for_log = 0
        self.wakes = 0
        self.rings = 0
        self.locked = 0
        self.finished = False
        start = Start(WHO, run, run_started)
        self.service = SensorService(
            self.config, start, self.open, self.clock, self.wake, self.ring
        )

    def open(self):
        self.fail_if_told("open")
        return Repository(self.config.storage.path, self)

    def fail_if_told(self, what):
        if what in self.failing:
            raise self.failing[what]

    def wake(self):
        self.wakes += 1

    def ring(self):
        self.rings += 1

    # The watch of the write lock: how often it was taken.

    def waiting(self):
        """Of no interest."""

    def holding(self):
        self.locked += 1

    def released(self):
        """Of no interest."""

    # Turning the handle

    def sample(self):
        for sampler in self.service._samplers:
            before = None
            while sampler.take_due(self.clock.now()) == 0.0 and before != self.waiting_readings():
                before = self.waiting_readings()

    def waiting_readings(self):
        return sum(map(len, self.service._buffer.oldest(10**9)))

    def step(self):
        return self.service.step(self.clock.now())

    def run(self, seconds, every=0.125):
        """The two threads side by side; a database that fails is tried again."""
        steps = round(seconds / every)
        for _ in range(steps):
            self.clock.advance(every)
            self.sample()
            with contextlib.suppress(StorageUnavailable):
                self.step()

    def finish(self):
        self.finished = True
        self.service.finish(self.clock.now())

    # What came of it

    @property
    def path(self):
        return self.config.storage.path

    def stored(self):
        return [value for (value,) in rows(self, "SELECT timestamp_us FROM message ORDER BY id")]

    def dropped(self):
        return dict(rows(self, "SELECT reason, n FROM dropped"))

    def drop_ranges(self):
        """(reason, n, first, last) of the events, in seconds since the clock was made."""
        query = "SELECT detail, n, first, last FROM event WHERE kind = 'dropped' ORDER BY id"
        return [
            (detail, n, first / 1e6 - WALL, last / 1e6 - WALL)
            for detail, n, first, last in rows(self, query)
        ]


@pytest.fixture
def make(place, monkeypatch):
    """Nodes in one place, one after the other; P3 holds at the end."""
    nodes = []

    def make_node(text, **how):
        nodes.append(Node(place, text, **how))
        return nodes[-1]

    real = sensor_service.open_source
    monkeypatch.setattr(
        sensor_service,
        "open_source",
        lambda sensor, directory: real(sensor, directory) if sensor.is_simulated else RealSource(),
    )
    yield make_node
    for node in nodes:
        node.failing.clear()
        if not node.finished:
            node.finish()
    assert audit(nodes[-1]) == []


class TestCommits:
    def test_each_reading_is_its_own_up_to_ten_a_second(self, make) -> None:
        node = make(MOCK.format(10))
        node.sample()
        assert node.step() == IDLE_SECONDS
        before = node.locked
        for _ in range(50):
            node.clock.advance(0.1)
            node.sample()
            node.step()
        assert node.sizes == [1] * 51
        assert node.locked - before == 50

    def test_the_writer_is_woken_for_each_reading(self, make) -> None:
        node = make(MOCK.format(10))
        node.sample()
        assert node.wakes == 1

    def test_they_are_30_ms_apart_above(self, make) -> None:
        node = make(MOCK.format(1000))
        node.step()
        before = node.locked
        node.run(3, every=GROUP_COMMIT_SECONDS)
        assert node.wakes == 0
        assert node.locked - before == pytest.approx(100, abs=1)
        assert node.rings == len(node.sizes)
        assert min(node.sizes[1:]) >= 29

    def test_between_them_a_step_does_nothing_and_says_how_long(self, make) -> None:
        node = make(MOCK.format(1000))
        assert node.step() == GROUP_COMMIT_SECONDS
        node.clock.advance(0.01)
        node.sample()
        before = node.locked
        assert node.step() == pytest.approx(GROUP_COMMIT_SECONDS - 0.01)
        assert node.locked == before

    def test_commit_interval_sets_how_far_they_are_apart(self, make) -> None:
        node = make(MOCK.format(1) + "[storage]\ncommit_interval = 10s\n")
        node.step()
        node.run(60, every=1.0)
        assert node.sizes == [11, 10, 10, 10, 10, 10]

    def test_a_long_commit_interval_does_not_let_the_buffer_overflow(self, make) -> None:
        node = make(MOCK.format(2000) + "[storage]\ncommit_interval = 60s\n")
        node.step()
        node.run(100, every=1.0)
        assert len(node.sizes) > 1
        node.finish()
        assert node.dropped() == {}
        assert sum(node.sizes) == 200_001

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            (MOCK.format(1), 0.0),
            (MOCK.format(10), 0.0),
            (MOCK.format(5) + HOST.format(5), 0.0),
            (MOCK.format(5) + HOST.format(6), GROUP_COMMIT_SECONDS),
            (MOCK.format(1000) + "[storage]\ncommit_interval = 0s\n", 0.0),
            (MOCK.format(1) + "[storage]\ncommit_interval = 500ms\n", 0.5),
        ],
    )
    def test_are_by_the_rate_of_all_sensors_unless_told_otherwise(
        self, place, text, seconds
    ) -> None:
        (place / "config.ini").write_text(text)
        assert commit_interval(load_config(place / "config.ini")) == seconds

    def test_are_of_bounded_size_and_go_on_at_once(self, make) -> None:
        node = make(MOCK.format(10_000))
        node.step()
        node.clock.advance(5)
        node.sample()
        assert node.step() == 0.0
        assert READINGS_A_COMMIT <= node.sizes[-1] < READINGS_A_COMMIT + 5000
        while node.step() == 0.0:
            pass
        assert sum(node.sizes) == 50_001

    def test_nothing_to_commit_takes_no_lock(self, make) -> None:
        node = make(MOCK.format(0.01))
        node.sample()
        node.step()
        before = node.locked
        for _ in range(20):
            node.clock.advance(1)
            node.sample()
            node.step()
        assert node.locked == before

    def test_readings_arrive_in_order_with_their_ticks_times(self, make) -> None:
        node = make(MOCK.format(4))
        node.sample()
        node.run(10)
        assert node.stored() == [int(WALL * 1e6) + 250_000 * k for k in range(41)]


class TestADatabaseThatCannotBeUsed:
    def test_keeps_readings_until_their_commit(self, make) -> None:
        node = make(MOCK.format(5))
        node.sample()
        node.step()
        node.failing["capture"] = DISK_FULL
        node.run(30)
        node.failing.clear()
        while node.step() == 0.0:
            pass
        assert node.stored() == [int(WALL * 1e6) + 200_000 * k for k in range(151)]
        assert node.dropped() == {}

    def test_is_told_to_the_loop_each_time(self, make) -> None:
        node = make(MOCK.format(1))
        node.step()
        node.failing["capture"] = DISK_FULL
        node.clock.advance(1)
        node.sample()
        for _ in range(3):
            with pytest.raises(StorageUnavailable):
                node.step()

    @pytest.mark.parametrize("reason", ["disk full", "read-only", "I/O error"])
    def test_that_lasts_drops_with_its_reason_and_range_what_does_not_fit(
        self, make, reason, monkeypatch
    ) -> None:
        monkeypatch.setattr(buffer, "MOST_REAL", 600)
        node = make(HOST.format(8))
        node.sample()
        node.step()
        node.failing["capture"] = StorageUnavailable(reason, "telemetry.db")
        node.run(300)
        node.failing.clear()
        while node.step() == 0.0:
            pass
        [(said, n, first, last)] = node.drop_ranges()
        assert (said, n) == (reason, node.dropped()[reason])
        assert len(node.stored()) + n == 2401
        # A minute's worth and more was kept; what came after it was not.
        assert first == pytest.approx(len(node.stored()) / 8)
        assert first >= 60
        assert last == 300.0

    def test_that_is_well_again_is_not_blamed_for_what_is_dropped_later(self, make) -> None:
        node = make(HOST.format(10))
        node.failing["capture"] = DISK_FULL
        node.run(1)
        node.failing.clear()
        node.step()
        assert node.service._buffer.trouble == ""

    def test_from_the_start_delays_no_reading(self, make) -> None:
        node = make(MOCK.format(1))
        node.failing["open"] = DISK_FULL
        node.run(30, every=1.0)
        node.failing.clear()
        node.step()
        assert len(node.stored()) == 31
        assert events(node)[0][0] == "started"

    def test_to_begin_with_leaves_no_file_open_at_each_try(self, make) -> None:
        node = make(MOCK.format(1))
        node.failing["begin_run"] = DISK_FULL
        before = len(os.listdir("/proc/self/fd"))
        node.run(30, every=1.0)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_by_a_real_full_disk_loses_nothing_and_stores_nothing_twice(self, make) -> None:
        node = make(MOCK.format(500))
        node.sample()
        node.step()
        connection = node.service._repository._database.connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 10}")
        node.run(5)
        with pytest.raises(StorageUnavailable, match="disk full"):
            node.step()
        connection.execute("PRAGMA max_page_count = 1000000")
        node.run(1)
        assert node.stored() == [int(WALL * 1e6) + 2000 * k for k in range(3001)]


class TestNoRoom:
    def test_is_counted_with_reason_and_range(self, make) -> None:
        node = make(MOCK.format(2) + FULL)
        node.sample()
        node.run(10)
        assert node.stored() == []
        assert node.dropped()["no room"] >= 20
        assert {said for said, *_ in node.drop_ranges()} == {"no room"}

    def test_is_counted_to_the_last_reading_before_a_stop(self, make) -> None:
        node = make(MOCK.format(2) + FULL)
        node.step()
        node.clock.advance(10)
        node.sample()
        node.finish()
        assert node.dropped() == {"no room": 21}
        assert node.drop_ranges() == [("no room", 21, 0.0, 10.0)]

    def test_is_counted_soon_and_not_with_the_next_reading(self, make) -> None:
        node = make(MOCK.format(1) + FULL)
        node.sample()
        assert node.step() == 0.0
        assert node.step() > 0.0
        assert node.dropped() == {"no room": 1}


@pytest.mark.parametrize("policy", ["", "[storage]\nwhen_full = drop-newest\n"])
@pytest.mark.parametrize("sensor", [MOCK, HOST])
class TestALogThatAnotherProgramHolds:
    """The disk has no room for more of it."""

    @pytest.fixture
    def node(self, make, policy, sensor):
        node = make(sensor.format(8) + policy)
        node.sample()
        node.run(1)
        node.log_held = True
        return node

    def taken(self, node):
        """How many readings were taken, or would have been."""
        return node.service._samplers[0].sensors[0]._next

    def test_costs_nothing_if_it_is_a_moment(self, node) -> None:
        node.run(HELD_SECONDS - 0.5)
        node.log_held = False
        node.run(2 * ASK_SECONDS)
        assert node.dropped() == {}
        assert len(node.stored()) == self.taken(node) - node.waiting_readings() >= 30

    def test_costs_readings_at_that_moment_counted_with_its_reason(self, node) -> None:
        stored = len(node.stored())
        node.run(HELD_SECONDS + 1)
        assert node.dropped().keys() == {LOG_HELD}
        assert node.waiting_readings() == 0
        node.run(300)
        assert len(node.stored()) == stored
        # All but what came since the last account.
        unaccounted = self.taken(node) - stored - node.dropped()[LOG_HELD]
        assert 0 <= unaccounted <= (ACCOUNT_SECONDS + 1) * 8
        node.log_held = False
        node.run(2 * ASK_SECONDS)
        assert len(node.stored()) > stored
        counted = len(node.stored()) + sum(node.dropped().values()) + node.waiting_readings()
        assert counted == self.taken(node)
        assert node.service._buffer.trouble == ""

    def test_is_written_to_for_the_account_now_and_then(self, node) -> None:
        node.run(HELD_SECONDS + 1)
        before, asked = len(node.sizes), node.asked_for_log
        node.run(100)
        assert len(node.sizes) - before == pytest.approx(100 / ACCOUNT_SECONDS, abs=1)
        assert node.asked_for_log - asked == pytest.approx(100 / ASK_SECONDS, abs=1)

    def test_is_not_written_to_once_the_reserve_is_exhausted_but_at_a_stop(
        self, node, monkeypatch
    ) -> None:
        monkeypatch.setattr(room.Space, "exhausted", True)
        node.run(60)
        assert node.dropped() == {}
        node.finish()
        assert node.dropped() == {LOG_HELD: self.taken(node) - len(node.stored())}

    def test_leaves_to_a_successor_what_was_not_accounted_for(
        self, node, make, policy, sensor
    ) -> None:
        node.run(65.5)
        taken, counted = self.taken(node), len(node.stored()) + node.dropped()[LOG_HELD]
        assert counted < taken - 8
        node.service._repository.close()
        node.finished = True
        another = make(sensor.format(8) + policy, clock=node.clock)
        another.sample()
        another.step()
        assert another.dropped()["not running"] == pytest.approx(taken - counted, abs=1)


class TestNoRoomYetWithDropOldest:
    """Eviction, in another process, makes room in a moment."""

    def test_keeps_readings_until_there_is(self, make) -> None:
        node = make(MOCK.format(500) + EVICTING)
        node.run(5)
        assert node.stored() == []
        node.service._room = LIMITLESS
        node.clock.advance(1)
        node.step()
        assert node.stored() == [int(WALL * 1e6) + 2000 * k for k in range(2501)]
        assert node.dropped() == {}
        assert node.service._buffer.trouble == ""

    def test_counts_nothing_as_dropped_that_is_younger_than_what_waits(self, make) -> None:
        """Were the process killed, its successor would count from there on."""
        node = make(MOCK.format(2) + EVICTING)
        node.step()
        node.clock.advance(10)
        node.sample()
        node.service._buffer.drop("late", 3, int(WALL * 1e6), int((WALL + 10) * 1e6))
        node.step()
        assert node.dropped() == {}
        node.service._room = LIMITLESS
        node.clock.advance(1)
        node.step()
        assert node.dropped() == {"late": 3}
        assert len(node.stored()) == 21

    def test_stores_what_there_is_room_for(self, make) -> None:
        node = make(MOCK.format(500) + EVICTING)
        node.step()
        used = node.service._repository.space(LIMITLESS).used
        node.service._room = SizeLimits(
            used + 7 * (READING_BYTES + len("room")), LIMITLESS.min_free
        )
        node.sample()
        node.clock.advance(1)
        node.sample()
        node.step()
        assert node.stored() == [int(WALL * 1e6) + 2000 * k for k in range(7)]
        node.service._room = LIMITLESS
        node.clock.advance(1)
        node.step()
        assert node.stored() == [int(WALL * 1e6) + 2000 * k for k in range(501)]

    def test_does_not_spin(self, make) -> None:
        node = make(MOCK.format(2000) + EVICTING)
        node.run(120, every=1.0)
        assert node.service._buffer.is_half_full()
        assert node.step() == GROUP_COMMIT_SECONDS

    def test_that_lasts_drops_with_its_reason_and_range_what_does_not_fit(
        self, make, monkeypatch
    ) -> None:
        monkeypatch.setattr(buffer, "MOST_REAL", 600)
        node = make(HOST.format(8) + EVICTING)
        node.sample()
        node.run(300)
        node.service._room = LIMITLESS
        while node.step() == 0.0:
            pass
        [(said, n, first, last)] = node.drop_ranges()
        assert said == "no room"
        assert len(node.stored()) + n == 2401
        assert first >= 60
        assert last == 300.0

    def test_is_counted_at_a_stop(self, make) -> None:
        node = make(MOCK.format(2) + EVICTING)
        node.step()
        node.clock.advance(10)
        node.sample()
        node.finish()
        assert node.drop_ranges() == [("no room", 21, 0.0, 10.0)]


class TestAnIoError:
    def test_is_followed_by_a_new_wal_before_anything_is_committed(self, make) -> None:
        """The kernel may have left a hole in the old one."""
        node = make(MOCK.format(5))
        node.run(1)
        node.failing["capture"] = StorageUnavailable("I/O error", "telemetry.db: disk I/O error")
        node.run(1)
        assert node.checkpoints != []
        node.checkpoints.clear()
        node.failing.clear()
        node.sizes.clear()
        node.run(2)
        assert node.checkpoints == [True]
        assert len(node.stored()) == 21

    def test_of_the_checkpoint_too_stops_no_capture(self, make) -> None:
        node = make(MOCK.format(5))
        node.run(1)
        node.failing["capture"] = node.failing["checkpoint"] = StorageUnavailable("I/O error", "")
        node.run(1)
        del node.failing["capture"]
        node.run(1)
        assert len(node.stored()) == 16


class TestTicksThatWereMissed:
    def test_by_a_simulated_sensor_are_made_up_for_a_minute(self, make) -> None:
        node = make(MOCK.format(2))
        node.clock.advance(100)
        node.sample()
        node.step()
        assert len(node.stored()) == 120
        node.step()
        assert node.drop_ranges() == [("sensor room late", 81, 0.0, 40.0)]

    def test_by_a_real_sensor_are_dropped(self, make) -> None:
        node = make(HOST.format(2))
        node.clock.advance(100)
        node.sample()
        node.step()
        assert len(node.stored()) == 1
        assert node.drop_ranges() == [("sensor load late", 200, 0.0, 99.5)]

    def test_while_the_machine_was_suspended_are_counted_as_asleep(self, make) -> None:
        node = make(MOCK.format(2))
        node.sample()
        node.clock.suspend(3600)
        node.sample()
        node.step()
        assert node.drop_ranges() == [("asleep", 7200, 0.0, 3600.0)]

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_because_the_value_was_no_number_are_counted(self, make, monkeypatch, value) -> None:
        monkeypatch.setattr(RealSource, "value", value)
        node = make(HOST.format(1))
        node.sample()
        node.step()
        assert node.dropped() == {"sensor load gave nan or infinity": 1}

    def test_because_the_sensor_failed_are_counted(self, make, monkeypatch) -> None:
        monkeypatch.setattr(RealSource, "value", None)
        node = make(HOST.format(1))
        node.sample()
        node.step()
        assert node.dropped() == {"sensor load failed": 1}


class TestAGeneratorThatReplacesAKilledOne:
    def killed(self, make, text=MOCK):
        """A generator that was killed right after a commit; its clock goes on."""
        node = make(text.format(2))
        node.sample()
        node.step()
        node.service._repository.close()
        node.finished = True
        return node.clock

    def test_counts_the_ticks_that_were_missed_in_between(self, make) -> None:
        clock = self.killed(make)
        clock.advance(10)
        node = make(MOCK.format(2), run_started=1000.0, clock=clock)
        node.sample()
        node.step()
        assert node.drop_ranges() == [("not running", 19, 0.0, 10.0)]
        assert [stored / 1e6 - WALL for stored in node.stored()] == [0.0, 10.0]

    def test_counts_none_if_it_was_quick(self, make) -> None:
        clock = self.killed(make)
        clock.advance(0.5)
        node = make(MOCK.format(2), run_started=1000.0, clock=clock)
        node.step()
        assert node.dropped() == {}

    def test_counts_none_from_before_this_run(self, make) -> None:
        clock = self.killed(make)
        clock.advance(100)
        node = make(MOCK.format(2), run_started=1095.0, clock=clock)
        node.step()
        assert node.dropped() == {"not running": 9}

    def test_counts_no_more_than_the_run_is_long_if_the_clock_was_set_forward(self, make) -> None:
        clock = self.killed(make)
        clock.advance(10)
        clock.wall += 86_400
        node = make(MOCK.format(2), run_started=1000.0, clock=clock)
        node.step()
        assert node.dropped() == {"not running": 19}

    def test_counts_nothing_if_the_clock_was_set_back(self, make) -> None:
        clock = self.killed(make)
        clock.advance(10)
        clock.wall -= 86_400
        node = make(MOCK.format(2), run_started=1000.0, clock=clock)
        node.step()
        assert node.dropped() == {}

    def test_counts_none_twice_that_was_dropped_before(self, make) -> None:
        clock = self.killed(make)
        clock.advance(8)
        before = make(MOCK.format(2), run_started=1000.0, clock=clock)
        before.service._evicts = False
        before.service._room = SizeLimits(max_size=0, min_free=0)  # full: nothing is stored
        before.step()
        clock.advance(10)
        before.sample()
        before.step()
        before.step()  # counts what the step before had to drop
        before.service._repository.close()
        before.finished = True
        full = before.dropped()
        assert full["not running"] == 15
        assert full["no room"] == 21  # both ends of ten seconds
        clock.advance(5)
        node = make(MOCK.format(2), run_started=1000.0, clock=clock)
        node.step()
        assert node.dropped() == {**full, "not running": 15 + 9}

    def test_is_not_misled_by_drops_of_a_clock_that_was_far_ahead(self, make) -> None:
        clock = self.killed(make)
        node = make(MOCK.format(2), run_started=1000.0, clock=clock)
        ahead = int((WALL + 3600) * 1e6)
        node.service._buffer.drop("late", 1, ahead, ahead)
        node.step()
        node.service._repository.close()
        node.finished = True
        clock.advance(10)
        node = make(MOCK.format(2), run_started=1000.0, clock=clock)
        node.step()
        assert node.dropped() == {"late": 1, "not running": 19}

    def test_after_a_stop_of_the_whole_appliance_it_is_an_event_only(self, make) -> None:
        clock = self.killed(make)
        clock.advance(10)
        node = make(MOCK.format(2), run="another run", clock=clock)
        node.step()
        assert node.dropped() == {}
        assert events(node, "not running") == ["no capture for 10.0 s"]


class TestVitalSigns:
    """How each sensor is stands in the database, and costs next to nothing."""

    def signs(self, node, *columns):
        found = f"SELECT {', '.join(columns)} FROM sensor ORDER BY name"
        return rows(node, found)

    def notes(self, node):
        """How often signs were written; no transaction was made for them alone."""
        return [signs for signs, readings in node.noted if signs]

    def test_of_a_sensor_that_is_well_are_written_every_ten_seconds_along_with_readings(
        self, make
    ) -> None:
        node = make(MOCK.format(1))
        node.sample()
        node.run(60, every=1.0)
        assert len(self.notes(node)) == pytest.approx(6, abs=1)
        assert all(readings for _, readings in node.noted)

    def test_of_a_sensor_at_rest_are_not_written(self, make) -> None:
        node = make(MOCK.format(0.001))
        node.sample()
        node.run(500, every=1.0)
        assert len(node.noted) == 1

    def test_of_a_sensor_in_a_hurry_are_written_every_50000_readings(self, make) -> None:
        node = make(MOCK.format(100_000))
        node.run(3, every=0.01)
        stored = sum(readings for _, readings in node.noted)
        assert len(self.notes(node)) == pytest.approx(stored / 50_000, abs=2)

    def test_count_what_is_stored_and_no_more(self, make) -> None:
        node = make(MOCK.format(2) + HOST.format(1))
        node.sample()
        node.run(30)
        node.finish()
        stored = rows(node, "SELECT name, count(*), max(timestamp_us) FROM message GROUP BY name")
        assert self.signs(node, "name", "readings", "last_us") == stored
        assert self.signs(node, "failures", "last_value")[0] == (0, 20.0)

    def test_count_no_reading_that_there_was_no_room_for(self, make) -> None:
        node = make(MOCK.format(2) + FULL)
        node.run(30)
        node.finish()
        assert self.signs(node, "readings", "last_us") == [(0, None)]

    def test_are_of_each_sensor_whatever_names_its_readings_bear(self, make, monkeypatch) -> None:
        def read(self, first_tick, timestamps_us):
            return [Reading(f"line {n}", 1.0, timestamps_us[0]) for n in range(5)]

        monkeypatch.setattr(RealSource, "read", read)
        node = make(HOST.format(1))
        node.sample()
        node.run(20)
        node.finish()
        assert self.signs(node, "name", "readings") == [("load", 105)]

    def test_go_on_counting_in_the_next_run(self, make) -> None:
        node = make(MOCK.format(1))
        node.sample()
        node.run(20)
        node.finish()
        node = make(MOCK.format(1), run="another run", clock=node.clock)
        node.clock.advance(1)
        node.run(20)
        node.finish()
        [(readings,)] = self.signs(node, "readings")
        assert readings == len(node.stored()) == 43

    @pytest.mark.parametrize("seconds", [0, 3, 17])
    def test_lose_no_count_when_the_generator_is_killed(self, make, seconds) -> None:
        node = make(MOCK.format(1))
        node.sample()
        node.step()
        node.run(seconds)
        node.service._repository.close()
        node.finished = True
        node = make(MOCK.format(1), clock=node.clock)
        node.step()
        [(readings, last_us)] = self.signs(node, "readings", "last_us")
        assert readings == len(node.stored()) == seconds + 1
        assert last_us == node.stored()[-1]

    def test_are_only_of_sensors_that_there_are(self, make) -> None:
        node = make(MOCK.format(1) + HOST.format(1))
        node.step()
        node.finish()
        node = make(HOST.format(1), run="another run", clock=node.clock)
        node.step()
        assert self.signs(node, "name") == [("load",)]

    def test_tell_at_once_that_it_fails_and_that_it_is_well_again(self, make, monkeypatch) -> None:
        node = make(HOST.format(1))
        node.sample()
        node.run(5)
        for value, failing in ((None, 1), (20.0, 0), (None, 1)):
            monkeypatch.setattr(RealSource, "value", value)
            node.run(2)
            assert self.signs(node, "failing") == [(failing,)]
        assert self.signs(node, "error", "failures") == [("no such file", 3)]
        [(error_us,)] = self.signs(node, "error_us")
        assert error_us == pytest.approx((WALL + 10) * 1e6, abs=1_000_001)

    def test_go_on_telling_for_as_long_as_the_last_attempt_failed(self, make, monkeypatch) -> None:
        """Once an hour: half a minute on the screen was not enough."""
        node = make(HOST.format(1 / 3600))
        monkeypatch.setattr(RealSource, "value", None)
        node.sample()
        node.run(7190, every=10.0)
        assert self.signs(node, "failing", "failures") == [(1, 2)]
        monkeypatch.setattr(RealSource, "value", 20.0)
        node.run(20, every=1.0)
        assert self.signs(node, "failing", "failures", "error") == [(0, 2, "no such file")]

    def test_do_not_wait_for_a_long_commit_interval_if_it_fails(self, make, monkeypatch) -> None:
        node = make(HOST.format(1) + "[storage]\ncommit_interval = 1m\n")
        monkeypatch.setattr(RealSource, "value", None)
        node.step()
        node.sample()
        node.run(2)
        assert self.signs(node, "failing") == [(1,)]

    def test_are_written_once_a_second_at_most_of_a_sensor_that_flaps(
        self, make, monkeypatch
    ) -> None:
        node = make(HOST.format(8))
        node.sample()
        for n in range(160):
            monkeypatch.setattr(RealSource, "value", None if n % 2 else 20.0)
            node.run(0.125)
        assert len(self.notes(node)) <= 21

    def test_tell_that_it_is_silent_once_it_is_for_three_periods(self, make) -> None:
        node = make(HOST.format(0.25))
        node.sample()
        node.run(2)
        seconds = 0.0
        while self.signs(node, "silent") == [(0,)]:
            node.clock.advance(0.5)  # nobody takes its turns
            node.step()
            seconds += 0.5
        assert seconds == pytest.approx(12 - 2, abs=1)
        assert node.noted[-1] == (1, 0), "without waiting for a reading"
        node.run(2)
        assert self.signs(node, "silent") == [(0,)]

    def test_tell_that_it_never_gave_a_reading_but_not_before_ten_seconds(self, make) -> None:
        node = make(HOST.format(100))
        node.step()
        for _ in range(9):
            node.clock.advance(1)
            node.step()
        assert self.signs(node, "silent") == [(0,)]
        for _ in range(3):
            node.clock.advance(1)
            node.step()
        assert self.signs(node, "silent", "heard_at") == [(1, None)]

    def test_tell_no_silence_of_a_machine_that_slept(self, make) -> None:
        node = make(MOCK.format(1) + HOST.format(1))
        node.sample()
        node.run(3)
        node.clock.suspend(3600)
        node.step()
        node.run(3)
        assert self.signs(node, "silent") == [(0,), (0,)]

    def test_tell_of_ticks_that_nobody_came_for(self, make, caplog) -> None:
        node = make(HOST.format(1))
        node.sample()
        node.run(3)
        for _ in range(20):
            node.clock.advance(1)
            node.step()
        [(unaccounted,)] = self.signs(node, "unaccounted")
        assert unaccounted > 0
        assert "ticks_unaccounted load" in caplog.text
        node.run(3)
        assert self.signs(node, "unaccounted") == [(0,)]

    def test_tell_of_no_such_ticks_of_a_process_that_was_stopped_for_a_while(self, make) -> None:
        node = make(HOST.format(1))
        node.sample()
        node.run(3)
        node.clock.advance(25)
        node.step()  # the writer is the first to run again
        node.run(3)
        assert all(one.unaccounted == 0 for signs in node.signs for one in signs)

    def test_are_the_new_databases_own_when_the_old_one_is_replaced(self, make) -> None:
        node = make(MOCK.format(8))
        node.run(20)
        quarantine.move(node.path, WALL)
        node.run(2, every=1)
        node.run(20)
        node.finish()
        assert self.signs(node, "readings") == [(len(node.stored()),)]

    def test_are_not_lost_with_a_commit_that_failed(self, make, monkeypatch) -> None:
        node = make(HOST.format(1))
        node.sample()
        node.step()
        node.failing["capture"] = DISK_FULL
        monkeypatch.setattr(RealSource, "value", None)
        node.run(5)
        node.failing.clear()
        node.run(2)
        node.finish()
        assert self.signs(node, "failing", "failures") == [(1, 7)]


class TestAThreadThatEnds:
    def test_ends_the_process_after_what_was_sampled_is_committed(self, make) -> None:
        node = make(MOCK.format(2) + HOST.format(1))
        node.step()
        node.sample()
        node.clock.advance(5)
        broken = node.service._samplers[1]
        broken.sensors[0].take_due = lambda now: 1 / 0
        broken.start(node.clock.now())
        broken.join(30)
        with pytest.raises(RuntimeError, match="a sampling thread has ended") as raised:
            node.step()
        node.finished = True
        assert isinstance(raised.value.__cause__, ZeroDivisionError)
        assert len(node.stored()) == 11 + 1

    def test_ends_it_also_where_nothing_can_be_committed(self, make) -> None:
        node = make(HOST.format(1))
        node.step()
        node.sample()
        [broken] = node.service._samplers
        broken.sensors[0].take_due = lambda now: 1 / 0
        broken.start(node.clock.now())
        broken.join(30)
        node.failing["capture"] = DISK_FULL
        with pytest.raises(RuntimeError, match="a sampling thread has ended"):
            node.step()
        node.finished = True
        node.service._repository.close()


class TestThreadsThatCannotBeStarted:
    def test_leave_the_other_sensors_at_work(self, make, monkeypatch) -> None:
        node = make(MOCK.format(1) + HOST.format(1))
        real = threading.Thread.start

        def start(thread):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        refused = node.service._samplers[1]
        refused.start(node.clock.now())
        monkeypatch.setattr(threading.Thread, "start", real)
        for _ in range(8):
            node.service._samplers[0].take_due(node.clock.advance(1))
            node.step()
        assert len(node.stored()) == 9
        assert node.dropped() == {"sensor load failed": 8}
        [(failing, error)] = rows(node, "SELECT failing, error FROM sensor WHERE name = 'load'")
        assert failing
        assert "raise the limit on processes" in error
        node.clock.advance(2)
        node.step()
        refused.join(0)
        assert refused._thread is not None


class TestTheWal:
    def test_is_checkpointed_when_the_housekeeper_seems_not_to(self, make) -> None:
        node = make(MOCK.format(1))
        node.wal_bytes = WAL_EMERGENCY_BYTES
        node.step()
        assert node.checkpoints == [True]

    def test_is_left_to_the_housekeeper_otherwise(self, make) -> None:
        node = make(MOCK.format(1))
        node.wal_bytes = WAL_EMERGENCY_BYTES - 1
        node.step()
        assert node.checkpoints == []


class TestADatabaseThatIsReplaced:
    """Because it is damaged, or by whatever means: there is another file of that name."""

    @pytest.mark.parametrize("last_act", ["step", "finish"])
    def test_gets_what_was_not_committed_and_a_stream_of_its_own(self, make, last_act) -> None:
        node = make(MOCK.format(8))
        node.run(2)
        before = node.stored()
        [(stream,)] = rows(node, "SELECT name FROM stream")
        quarantine.move(node.path, WALL)
        node.run(1, every=1)  # it finds out, and what it had in hand stays in memory
        assert not node.path.exists()
        if last_act == "step":
            node.run(1)
        else:
            node.finish()
        after = node.stored()
        assert after[0] - before[-1] == 125_000
        assert len(after) == 8 if last_act == "finish" else 16
        assert node.dropped() == {}
        assert stream not in rows(node, "SELECT name FROM stream")[0]


class TestTheEnd:
    def test_commits_all_that_was_sampled_and_closes(self, make) -> None:
        node = make(MOCK.format(10_000))
        node.step()
        node.clock.advance(5)
        node.sample()
        node.finish()
        assert len(node.stored()) == 50_001
        with pytest.raises(Exception, match="closed"):
            node.service._repository.counts()

    def test_before_the_first_step_still_stores_what_was_sampled(self, make) -> None:
        node = make(MOCK.format(1))
        node.sample()
        node.finish()
        assert len(node.stored()) == 1

    def test_makes_up_what_was_not_yet_sampled_when_the_process_was_stopped(self, make) -> None:
        node = make(MOCK.format(2000))
        node.sample()
        node.clock.advance(7)
        node.finish()
        assert len(node.stored()) == 14_001
        assert node.dropped() == {}

    def test_is_no_orderly_stop_of_the_appliance(self, make) -> None:
        node = make(MOCK.format(1))
        node.step()
        node.finish()
        assert events(node, "stopped") == []

    def test_says_if_readings_could_not_be_stored(self, make) -> None:
        node = make(MOCK.format(1))
        node.step()
        node.clock.advance(1)
        node.sample()
        node.failing["capture"] = DISK_FULL
        with pytest.raises(StorageUnavailable):
            node.finish()
        node.service._repository.close()


def test_whatever_is_real_may_hang_so_each_has_a_thread_of_its_own(make) -> None:
    command = "[sensor:{}]\nsource = command\ncommand = sleep 1000\n"
    two_mocks = MOCK.format(1) + MOCK.replace("room", "hall").format(1)
    node = make(two_mocks + HOST.format(1) + command.format("a") + command.format("b"))
    assert [len(sampler.sensors) for sampler in node.service._samplers] == [2, 1, 1, 1]


def test_a_source_that_is_sampled_by_the_real_thread_is_committed_by_steps(make) -> None:
    node = make(MOCK.format(1))
    node.service.start_sampling()
    node.finish()
    assert len(node.stored()) <= 1
