"""P5: disk and flash wear are bounded, and what is given up for it is the least that will do."""

import contextlib
import logging
import os
import sqlite3
from collections import namedtuple

import pytest
from clocks import WALL, ManualClock
from storage_fixtures import (
    DELIVERED,
    POLICY,
    RULES,
    LockCounter,
    batch_ranges,
    deliver,
    events,
    fail,
    fill,
    park,
    rows,
    set_sink,
)

from sensor_node.config.loader import load_config
from sensor_node.processes import housekeeping_service
from sensor_node.processes.housekeeping_service import (
    BUSY_STEP_SECONDS,
    STEP_SECONDS,
    SWEEP_SECONDS,
    HousekeepingService,
)
from sensor_node.storage.engine.checkpoint import WAL_CHECKPOINT_BYTES, WAL_LIMIT_BYTES, wal_bytes
from sensor_node.storage.queue.room import RESERVE_BYTES, SizeLimits
from sensor_node.storage.repository import SensorDataSQLRepository

Disk = namedtuple("Disk", "f_bavail f_frsize")
NOW_US = int(WALL * 1e6)
DAY = 86_400.0
SMALL = "max_size = 4MiB"
MAX_SIZE = 4 * 1024 * 1024
# Then the disk has no room for the file to grow.
DISK_FULL = "min_free = 1024GiB"
# At about 40 bytes each these are more than the 4 MiB of SMALL.
MANY = 120_000


class Repository(SensorDataSQLRepository):
    """The real one, which remembers its checkpoints and can be told how long the WAL is."""

    wal = None

    def __init__(self, path, watch):
        self.checkpoints = []
        super().__init__(path, watch)

    def wal_bytes(self):
        return super().wal_bytes() if self.wal is None else self.wal

    def checkpoint(self, *, truncate):
        self.checkpoints.append(truncate)
        return super().checkpoint(truncate=truncate)


class Keeper(LockCounter):
    """A housekeeper beside another process, `repository`."""

    def __init__(self, place, repository, options):
        file = place / "config.ini"
        file.write_text(f"[sensor:room]\n[storage]\n{options}\n")
        self.config = load_config(file)
        self.clock = ManualClock()
        self.final = False
        self.finished = False
        self.other = repository
        self.own = Repository(repository.path, self)
        self.service = HousekeepingService(self.config, self.own, lambda: self.final, 0)

    def step(self):
        return self.service.step(self.clock.now())

    def work(self, most=5000):
        """Steps until there is nothing more to do at once. Returns how many."""
        for steps in range(1, most):
            if self.step() > 0:
                return steps
        raise AssertionError(f"still busy after {most} steps")

    def run(self, seconds):
        for _ in range(round(seconds)):
            self.clock.advance(1)
            self.work()

    def chunks(self):
        """How many batch ranges each chunk of the purge found, as they come."""
        found = []
        purge = self.own.purge

        def watched(*arguments):
            chunk = purge(*arguments)
            found.append(len(chunk.batch_ranges))
            return chunk

        self.own.purge = watched
        return found

    def finish(self):
        self.finished = True
        self.service.finish(self.clock.now())

    def space(self):
        storage = self.config.storage
        return self.own.space(SizeLimits(storage.max_size, storage.min_free))


@pytest.fixture
def make(place, repository):
    made = []

    def make_keeper(options="", wal=0):
        made.append(Keeper(place, repository, options))
        # The tests' own bulk writing is not to look like a load on the WAL.
        made[-1].own.wal = wal
        return made[-1]

    yield make_keeper
    for keeper in made:
        if not keeper.finished:
            keeper.finish()


@contextlib.contextmanager
def reading(repository):
    """Another program's transaction."""
    with contextlib.closing(sqlite3.connect(repository.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM message").fetchall()
        yield


def evictions(repository):
    """(reason, n, first id, last id) of each event."""
    query = "SELECT detail, n, first, last FROM event WHERE kind = 'evicted' ORDER BY id"
    return rows(repository, query)


class TestTheWal:
    @pytest.mark.parametrize(
        ("size", "checkpoints", "delay"),
        [
            (WAL_CHECKPOINT_BYTES, [], STEP_SECONDS),
            (WAL_CHECKPOINT_BYTES + 1, [False], BUSY_STEP_SECONDS),
            (WAL_LIMIT_BYTES, [False], BUSY_STEP_SECONDS),
            (WAL_LIMIT_BYTES + 1, [True], BUSY_STEP_SECONDS),
        ],
    )
    def test_is_checkpointed_from_a_mebibyte_on_and_cut_above_its_limit(
        self, make, size, checkpoints, delay
    ) -> None:
        keeper = make(wal=0)
        keeper.work()
        keeper.own.wal = size
        keeper.clock.advance(1)
        assert keeper.step() == delay
        assert keeper.own.checkpoints == checkpoints
        keeper.clock.advance(1)
        assert keeper.step() == STEP_SECONDS
        assert keeper.own.checkpoints == checkpoints, "nothing is new in it"

    def test_is_moved_once_a_mebibyte_however_often_one_looks(self, make, repository) -> None:
        keeper = make(wal=None)
        longest = 0
        for _ in range(2000):
            fill(repository, 100)
            longest = max(longest, wal_bytes(repository.path))
            keeper.clock.advance(1)
            keeper.step()
        assert 10 <= len(keeper.own.checkpoints) <= 40
        assert longest <= WAL_CHECKPOINT_BYTES + 20_000, "it begins anew in the same place"

    def test_that_cannot_grow_is_moved_whatever_its_length_so_that_it_is_used_again(
        self, make, repository, monkeypatch
    ) -> None:
        keeper = make("min_free = 0\n", wal=None)
        keeper.work()
        fill(repository, 100)
        monkeypatch.setattr(os, "statvfs", lambda path: Disk(RESERVE_BYTES // 2048, 1024))
        keeper.step()
        assert keeper.own.checkpoints == []
        monkeypatch.setattr(os, "statvfs", lambda path: Disk(0, 1024))
        for _ in range(3):
            keeper.step()
        assert keeper.own.checkpoints == [False] * 3

    def test_that_is_held_is_tried_at_each_step_until_it_is_emptied(self, make, repository) -> None:
        """However long it stays as it is, and without haste."""
        keeper = make(wal=WAL_LIMIT_BYTES + 1)
        fill(repository, 100)
        with reading(repository):
            fill(repository, 100)
            keeper.step()
            for _ in range(5):
                keeper.clock.advance(1)
                assert keeper.step() == STEP_SECONDS
        assert keeper.own.checkpoints == [True] * 6
        keeper.clock.advance(1)
        assert keeper.step() == BUSY_STEP_SECONDS
        keeper.own.wal = 0
        keeper.clock.advance(1)
        keeper.step()
        assert keeper.own.checkpoints == [True] * 7
        assert wal_bytes(repository.path) == 0

    def test_that_is_held_on_a_disk_without_room_is_not_written_to(
        self, make, repository, monkeypatch
    ) -> None:
        keeper = make(f"{SMALL}\nmax_age = 1s\n", wal=None)
        fill(repository, MANY)
        with reading(repository):
            fill(repository, 1)
            monkeypatch.setattr(os, "statvfs", lambda path: Disk(0, 1024))
            keeper.clock.advance(20)
            keeper.step()  # which notes the clock
            before = wal_bytes(repository.path)
            keeper.run(5)
            assert keeper.space().tight
            assert wal_bytes(repository.path) == before
            assert evictions(repository) == []
        keeper.run(2)
        assert evictions(repository) != []

    def test_that_takes_the_disks_room_is_no_reason_to_evict(
        self, make, repository, monkeypatch
    ) -> None:
        keeper = make("min_free = 0", wal=WAL_LIMIT_BYTES + 1)
        fill(repository, 10_000)
        monkeypatch.setattr(housekeeping_service, "WAL_LIMIT_BYTES", 0)
        with reading(repository):
            fill(repository, 100)
            free = RESERVE_BYTES + keeper.space().unmoved + 1024
            monkeypatch.setattr(os, "statvfs", lambda path: Disk(free // 1024 + 1, 1024))
            assert keeper.space().left < keeper.space().spare
            keeper.run(3)
        assert evictions(repository) == []

    def test_that_is_long_is_really_short_afterwards(self, make, repository) -> None:
        keeper = make(wal=WAL_LIMIT_BYTES + 1)
        fill(repository, 20_000)
        assert wal_bytes(repository.path) > 500_000
        keeper.step()
        assert wal_bytes(repository.path) < 50_000

    def test_is_emptied_at_the_end(self, make, repository) -> None:
        keeper = make()
        fill(repository, 20_000)
        keeper.finish()
        assert wal_bytes(repository.path) == 0


class TestDeliveredReadings:
    def test_are_kept_for_keep_sent_from_delivery_on(self, make, repository) -> None:
        keeper = make("keep_sent = 24h")
        fill(repository, 10, first_us=NOW_US - int(30 * DAY * 1e6))
        deliver(repository, 10, now=WALL)
        keeper.clock.advance(DAY - 1)
        keeper.work()
        assert batch_ranges(repository) == [(1, 10, "SENT")]
        keeper.clock.advance(SWEEP_SECONDS + 1)
        keeper.work()
        assert batch_ranges(repository) == [(1, 10, "PURGED")]
        assert rows(repository, "SELECT count(*) FROM message") == [(0,)]

    def test_count_as_sent_for_ever(self, make, repository) -> None:
        keeper = make("keep_sent = 0s")
        fill(repository, 10)
        deliver(repository, 10, now=WALL)
        keeper.work()
        counts = repository.counts()
        assert (counts.sent, counts.purged) == (10, 10)

    def test_alone_are_touched_by_it(self, make, repository) -> None:
        keeper = make("keep_sent = 0s")
        fill(repository, 5, first_us=NOW_US)
        fail(repository, 1)
        park(repository, 1)
        park(repository, 1, status="IN_DOUBT")
        deliver(repository, 1)
        keeper.run(2 * SWEEP_SECONDS)
        assert [status for *_, status in batch_ranges(repository)] == [
            "FAILED",
            "DEAD",
            "IN_DOUBT",
            "PURGED",
        ]
        assert repository.counts().pending == 1

    def test_are_looked_for_once_a_minute(self, make, repository) -> None:
        keeper = make("keep_sent = 0s")
        keeper.work()
        before = keeper.locked
        for _ in range(round(SWEEP_SECONDS) - 1):
            keeper.clock.advance(1)
            keeper.work()
        assert keeper.locked - before <= SWEEP_SECONDS / 10
        assert not keeper.service._sweeping

    def test_cost_the_same_look_each_minute_however_many_are_kept(self, make, repository) -> None:
        keeper = make("keep_sent = 24h")
        chunks = keeper.chunks()
        fill(repository, 1500)
        for _ in range(500):
            deliver(repository, 1, now=WALL)
        for _ in range(500):
            park(repository, 1)
        for _ in range(500):
            deliver(repository, 1, now=WALL)
        keeper.work()
        assert chunks == [0]
        keeper.run(10 * SWEEP_SECONDS)
        assert chunks == [0] * 11

    def test_are_looked_for_from_the_first_that_may_be_due(self, make, repository) -> None:
        """Those before it are passed over once an hour."""
        keeper = make("keep_sent = 24h")
        fill(repository, 1001)
        for _ in range(1000):
            park(repository, 1)
        deliver(repository, 1, now=WALL)
        chunks = keeper.chunks()
        keeper.work()
        assert chunks == [0] * 6
        keeper.run(10 * SWEEP_SECONDS)
        assert chunks == [0] * 16
        keeper.clock.advance(DAY)
        keeper.run(1)
        assert repository.counts().purged == 1

    def test_at_a_second_try_are_deleted_within_the_hour(self, make, repository) -> None:
        keeper = make("keep_sent = 1h")
        fill(repository, 2)
        fail(repository, 1, now=WALL)
        deliver(repository, 1, now=WALL)
        keeper.work()
        claim = repository.claim_due("retrier", POLICY, WALL, 1)
        repository.settle(claim, DELIVERED, RULES, WALL)
        keeper.clock.advance(3600 + SWEEP_SECONDS)
        keeper.work()
        assert batch_ranges(repository) == [(1, 2, "PURGED")]

    def test_go_within_two_minutes_where_none_are_kept(self, make, repository) -> None:
        keeper = make("keep_sent = 0s")
        fill(repository, 100)
        for tick in range(100):
            deliver(repository, 1, now=keeper.clock.now().wall)
            keeper.run(2)
            assert repository.counts().sent - repository.counts().purged <= SWEEP_SECONDS, tick

    def test_are_deleted_in_bites_that_let_capture_pass(self, make, repository) -> None:
        keeper = make("keep_sent = 0s")
        for _ in range(400):
            fill(repository, 100)
            deliver(repository, 100, now=WALL)
        assert keeper.step() == 0.0
        assert 0 < repository.counts().purged <= 20_000
        assert 1 < keeper.work() < 20
        assert repository.counts().purged == 40_000


class TestUndeliveredReadings:
    def test_older_than_max_age_are_given_up(self, make, repository) -> None:
        keeper = make("max_age = 1h")
        fill(repository, 4000, first_us=NOW_US - 3_600_000_000 - 3_000_000_000)
        keeper.work()
        assert repository.counts().evicted == 3000
        assert evictions(repository) == [("older than max_age", 3000, 1, 3000)]

    def test_that_failed_are_given_up_as_well(self, make, repository) -> None:
        keeper = make("max_age = 1h")
        fill(repository, 2)
        fail(repository, 2)
        keeper.work()
        assert repository.counts().evicted == 2

    def test_in_a_request_are_not(self, make, repository) -> None:
        keeper = make("max_age = 1h")
        fill(repository, 2)
        repository.claim_fresh("sender", POLICY, 0.0, 2)
        keeper.work()
        assert batch_ranges(repository) == [(1, 2, "SENDING")]

    def test_are_kept_for_ever_by_default(self, make, repository) -> None:
        keeper = make()
        fill(repository, 10, first_us=0)
        keeper.clock.advance(3650 * DAY)
        keeper.work()
        assert repository.counts().pending == 10


class TestMaxSize:
    def test_is_kept_with_room_to_spare_by_giving_up_the_oldest(self, make, repository) -> None:
        keeper = make(SMALL)
        fill(repository, MANY)
        assert keeper.space().left < 0
        keeper.work()
        space = keeper.space()
        assert space.limit == MAX_SIZE
        assert MAX_SIZE * 0.6 < space.used < MAX_SIZE
        counts = repository.counts()
        assert counts.evicted + counts.pending == MANY
        assert batch_ranges(repository) == [(1, counts.evicted, "EVICTED")]
        assert evictions(repository) == [("max_size", counts.evicted, 1, counts.evicted)]

    def test_is_kept_without_the_file_growing_however_much_is_captured(
        self, make, repository
    ) -> None:
        keeper = make(SMALL)
        for _ in range(20):
            fill(repository, 30_000)
            keeper.clock.advance(1)
            keeper.work()
        assert keeper.space().file_bytes < 1.5 * MAX_SIZE

    def test_costs_delivered_readings_first(self, make, repository) -> None:
        keeper = make(SMALL)
        fill(repository, MANY)
        for _ in range(MANY // 2000):
            deliver(repository, 1000, now=WALL)
        keeper.work()
        counts = repository.counts()
        assert counts.evicted == 0
        assert counts.pending == MANY // 2
        assert counts.purged > 0

    def test_costs_failed_readings_before_pending_ones(self, make, repository) -> None:
        keeper = make(SMALL)
        fill(repository, MANY)
        fail(repository, 100)
        keeper.step()
        assert batch_ranges(repository) == [(1, 100, "EVICTED")]

    def test_never_costs_what_is_being_sent(self, make, repository) -> None:
        keeper = make(SMALL)
        fill(repository, MANY)
        repository.claim_fresh("sender", POLICY, 0.0, 100)
        keeper.work()
        assert batch_ranges(repository)[0] == (1, 100, "SENDING")
        assert repository.counts().evicted > 0

    def test_is_made_in_bites_that_let_capture_pass(self, make, repository) -> None:
        keeper = make(SMALL)
        fill(repository, MANY)
        assert keeper.step() == 0.0
        assert repository.counts().evicted == 2000

    def test_that_is_not_reached_costs_nothing(self, make, repository) -> None:
        keeper = make(SMALL)
        fill(repository, 20_000)
        assert keeper.work() <= 2
        assert evictions(repository) == []


class TestDropNewest:
    def test_keeps_what_is_there(self, make, repository) -> None:
        keeper = make(f"{SMALL}\nwhen_full = drop-newest")
        fill(repository, MANY)
        assert keeper.work() <= 2
        assert repository.counts().pending == MANY

    def test_still_gives_up_what_was_delivered(self, make, repository) -> None:
        keeper = make(f"{SMALL}\nwhen_full = drop-newest")
        fill(repository, MANY)
        deliver(repository, 60_000, now=WALL)
        keeper.work()
        assert repository.counts().purged == 60_000

    def test_still_gives_up_what_is_older_than_max_age(self, make, repository) -> None:
        keeper = make(f"{SMALL}\nwhen_full = drop-newest\nmax_age = 1h")
        fill(repository, MANY, first_us=NOW_US - 3600 * 1_000_000 - 50_000 * 1_000_000)
        keeper.work()
        assert repository.counts().evicted == 50_000

    def test_still_limits_what_waits_for_a_person(self, make, repository) -> None:
        keeper = make(f"{SMALL}\nwhen_full = drop-newest")
        fill(repository, MANY)
        for _ in range(40):
            park(repository, 1000)
        keeper.work()
        assert 0 < repository.counts().dead < 20_000


class TestMinFree:
    def test_is_kept_by_giving_up_the_oldest_inside_the_file(self, make, repository) -> None:
        keeper = make(DISK_FULL)
        fill(repository, 150_000)
        before = keeper.space().file_bytes
        keeper.work()
        assert keeper.space().file_bytes == before
        counts = repository.counts()
        assert 0 < counts.evicted < 75_000
        assert {reason for reason, *_ in evictions(repository)} == {"min_free"}

    def test_does_not_cost_all_that_a_small_file_holds(self, make, repository) -> None:
        keeper = make(DISK_FULL)
        fill(repository, 10_000)
        keeper.work()
        assert keeper.space().file_bytes < 1024 * 1024
        assert repository.counts().pending >= 6000


class TestWhatWaitsForAPerson:
    @pytest.mark.parametrize("status", ["DEAD", "IN_DOUBT"])
    def test_takes_a_tenth_of_max_size_at_most_oldest_first(self, make, repository, status) -> None:
        keeper = make(SMALL)
        fill(repository, 60_000)
        for _ in range(40):
            park(repository, 1000, status=status)
        keeper.work()
        counts = repository.counts()
        parked = counts.dead + counts.in_doubt
        assert parked * keeper.space().used / (counts.pending + parked) <= 0.1 * MAX_SIZE
        assert parked >= 8000
        assert counts.pending == 20_000
        assert batch_ranges(repository)[0] == (1, 40_000 - parked, "EVICTED")
        assert evictions(repository)[0][0] == "DEAD and IN_DOUBT over 10% of max_size"

    def test_is_left_alone_below_that(self, make, repository) -> None:
        keeper = make(SMALL)
        fill(repository, 5000)
        park(repository, 5000)
        keeper.work()
        assert repository.counts().dead == 5000


class TestSamples:
    def samples(self, repository):
        return rows(repository, "SELECT at, captured FROM sample ORDER BY at")

    def test_are_taken_every_ten_seconds_while_things_change(self, make, repository) -> None:
        keeper = make()
        for _ in range(40):
            fill(repository, 1)
            keeper.clock.advance(1)
            keeper.work()
        assert [captured for _, captured in self.samples(repository)] == [1, 11, 21, 31]

    def test_are_timed_by_a_clock_that_never_jumps(self, make, repository) -> None:
        keeper = make()
        fill(repository, 1)
        keeper.clock.wall += 86_400
        keeper.work()
        assert self.samples(repository) == [(1000.0, 1)]

    def test_of_the_last_minute_are_kept(self, make, repository) -> None:
        keeper = make()
        for _ in range(300):
            fill(repository, 1)
            keeper.clock.advance(1)
            keeper.work()
        assert len(self.samples(repository)) <= 7

    def test_wear_out_no_flash_while_nothing_happens(self, make, repository) -> None:
        keeper = make()
        keeper.run(10)
        before = wal_bytes(repository.path)
        keeper.run(600)
        assert wal_bytes(repository.path) == before


class TestTheClock:
    @pytest.mark.parametrize(("step", "said"), [(3600, "+3600.0 s"), (-1.5, "-1.5 s")])
    def test_that_steps_is_an_event_once(self, make, repository, step, said) -> None:
        keeper = make()
        keeper.work()
        keeper.clock.wall += step
        keeper.run(3)
        assert events(repository, "clock step") == [said]

    def test_that_steps_while_nobody_looks_is_noted_later(self, make, repository) -> None:
        make().work()
        keeper = make()
        keeper.clock.wall += 60
        keeper.run(3)
        assert events(repository, "clock step") == ["+60.0 s"]

    def test_that_is_slewed_or_goes_on_while_the_machine_sleeps_is_none(
        self, make, repository
    ) -> None:
        keeper = make()
        keeper.work()
        keeper.clock.wall += 0.9
        keeper.clock.suspend(3600)
        keeper.run(3)
        assert events(repository, "clock step") == []

    def test_that_creeps_is_noted_within_the_hour(self, make, repository) -> None:
        keeper = make()
        keeper.work()
        for _ in range(2):
            keeper.clock.wall += 0.6
            keeper.clock.advance(3600)
            keeper.work()
        assert events(repository, "clock step") == ["+1.2 s"]

    def test_that_leaps_makes_no_reading_old(self, make, repository) -> None:
        keeper = make("max_age = 1h")
        fill(repository, 10, first_us=NOW_US - 60 * 1_000_000)
        fail(repository, 5)
        keeper.work()
        keeper.clock.wall += 3650 * DAY
        keeper.run(60)
        assert repository.counts().evicted == 0
        keeper.run(3600)
        assert repository.counts().evicted == 10, "an hour has passed"

    def test_that_leaps_costs_delivered_readings_only(self, make, repository) -> None:
        keeper = make("max_age = 1h\nkeep_sent = 1h")
        fill(repository, 20, first_us=NOW_US)
        deliver(repository, 10, WALL)
        keeper.work()
        keeper.clock.wall += 3650 * DAY
        keeper.run(SWEEP_SECONDS)
        counts = repository.counts()
        assert (counts.purged, counts.pending, counts.evicted) == (10, 10, 0)


def test_there_is_one_summary_line_an_hour(make, repository, caplog) -> None:
    keeper = make()
    with caplog.at_level(logging.INFO, logger="sensor_node"):
        keeper.work()
        assert caplog.records == []
        fill(repository, 7)
        for _ in range(3):
            keeper.clock.advance(3600)
            keeper.work()
            keeper.work()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["summary captured=7 undelivered=7 sent=0 evicted=0 dropped=0"] * 3


class TestTheEnd:
    def test_of_the_appliance_is_noted_as_an_orderly_stop(self, make, repository) -> None:
        keeper = make()
        keeper.final = True
        keeper.finish()
        assert events(repository, "stopped") == ["in good order"]

    def test_of_this_process_alone_is_not(self, make, repository) -> None:
        make().finish()
        assert events(repository, "stopped") == []

    def test_closes_the_database(self, make) -> None:
        keeper = make()
        keeper.finish()
        with pytest.raises(Exception, match="closed"):
            keeper.own.counts()


def test_nothing_is_deleted_because_the_sink_is_down(make, repository) -> None:
    keeper = make()
    fill(repository, 1000, first_us=NOW_US)
    set_sink(repository, state="DOWN", next_probe_at=WALL + 60)
    keeper.run(120)
    assert repository.counts().pending == 1000
