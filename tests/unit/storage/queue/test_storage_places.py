"""Disks that are full or read-only: said in a word, nothing changed, and it goes on afterwards."""

import contextlib
import os
import subprocess

import pytest
from storage_fixtures import WHO, audit, dump, fill, readings, rows

from sensor_node.core.errors import StorageUnavailable
from sensor_node.core.model import Dropped
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.queue import room
from sensor_node.storage.queue.room import SizeLimits
from sensor_node.storage.repository import SensorDataSQLRepository

NO_LIMIT = -(1 << 40)
ANYTHING_GOES = SizeLimits(max_size=1 << 40, min_free=NO_LIMIT)


class Disk:
    """A file system in memory of a given size."""

    def __init__(self, path):
        self.path = path
        self.database = path / "telemetry.db"

    def mount(self, options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.path]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")

    def free(self):
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave=0):
        """Leave no more than so many bytes free."""
        with (self.path / "filler").open("wb", buffering=0) as filler:
            while self.free() > leave:
                filler.write(b"x" * 4096)

    def empty(self):
        (self.path / "filler").unlink()


@pytest.fixture
def disk(tmp_path, monkeypatch):
    if os.geteuid():
        pytest.skip("only root can mount a file system")
    # These disks are smaller than what is kept free of any disk.
    monkeypatch.setattr(room, "RESERVE_BYTES", NO_LIMIT)
    path = tmp_path / "disk"
    path.mkdir()
    disk = Disk(path)
    disk.mount("size=2m")
    yield disk
    subprocess.run(["umount", "-l", path], check=True)


def opened(disk):
    return contextlib.closing(SensorDataSQLRepository(disk.database))


def reason_of(action):
    with pytest.raises(StorageUnavailable) as caught:
        action()
    return caught.value.reason


# Full


def fill_disk_by_capturing(repository):
    """Until the disk has no room for another hundred, as if no limit had been set."""
    with pytest.raises(StorageUnavailable) as caught:
        while True:
            before = dump(repository)
            repository.capture(readings(100), [Dropped("late", 1, 0, 1)], 0.0, ANYTHING_GOES)
    assert caught.value.reason == "disk full"
    return before


def test_on_a_full_disk_a_capture_fails_whole_and_what_is_there_stays(disk):
    with opened(disk) as repository:
        repository.begin_run(WHO, 0.0, "a run")
        before = fill_disk_by_capturing(repository)
        assert dump(repository) == before
        assert repository.counts().captured == len(before["message"])
        assert audit(repository) == []


def test_when_the_disk_has_room_again_capture_goes_on_without_a_gap_in_the_ids(disk):
    with opened(disk) as repository:
        repository.begin_run(WHO, 0.0, "a run")
        disk.fill(leave=100_000)
        too_many = readings(5000)
        why = reason_of(lambda: repository.capture(too_many, [], 0.0, ANYTHING_GOES))
        assert why == "disk full"
        disk.empty()
        fill(repository, 3)
        assert rows(repository, "SELECT id FROM message") == [(1,), (2,), (3,)]
        assert audit(repository) == []


def test_a_full_disk_leaves_no_room_for_a_new_database(disk):
    disk.fill()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert reason_of(lambda: SensorDataSQLRepository(disk.database)) == "disk full"
    assert len(os.listdir("/proc/self/fd")) == descriptors
    disk.empty()
    with opened(disk) as repository:
        repository.begin_run(WHO, 0.0, "a run")
        assert audit(repository) == []


def test_a_full_disk_is_called_so_also_where_there_is_a_database_already(disk):
    with opened(disk) as repository:
        fill(repository, 3)
    disk.fill()
    assert reason_of(lambda: SensorDataSQLRepository(disk.database)) == "disk full"
    disk.empty()
    with opened(disk) as repository:
        assert repository.counts().captured == 3


def test_on_a_full_disk_what_the_limits_allow_is_nothing_more(disk):
    """With min_free in force capture stops before the disk is full, and other programs go on."""
    limits = SizeLimits(max_size=1 << 40, min_free=512 * 1024)
    with opened(disk) as repository:
        repository.begin_run(WHO, 0.0, "a run")
        while repository.capture(readings(100), [], 0.0, limits):
            if repository.wal_bytes() > 100_000:
                repository.checkpoint(truncate=True)
        repository.checkpoint(truncate=True)
        assert disk.free() > 256 * 1024


# Read-only


@pytest.fixture
def read_only(disk):
    """A database with three readings and no WAL, on a file system that has become read-only."""
    with opened(disk) as repository:
        fill(repository, 3)
    disk.mount("remount,ro")
    return disk


def test_a_read_only_file_system_is_named_as_such(read_only):
    descriptors = len(os.listdir("/proc/self/fd"))
    assert reason_of(lambda: SensorDataSQLRepository(read_only.database)) == "read-only"
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_reader_on_a_read_only_file_system_takes_the_file_as_it_is(read_only):
    with contextlib.closing(open_reader(read_only.database)) as reader:
        assert reader.execute("SELECT count(*) FROM message").fetchall() == [(3,)]


def test_a_reader_that_cannot_read_the_wal_does_not_pretend_there_is_none(disk, place):
    with contextlib.closing(SensorDataSQLRepository(place / "telemetry.db")) as repository:
        fill(repository, 3)
        for name in ("telemetry.db", "telemetry.db-wal"):
            # By another process: closing the file in this one would drop SQLite's locks.
            subprocess.run(["cp", place / name, disk.path], check=True)
    disk.mount("remount,ro")
    assert reason_of(lambda: open_reader(disk.database)) in ("cannot be opened", "read-only")


@pytest.fixture
def immutable(tmp_path):
    """Makes a file that even root may only read."""
    made = []

    def make(path):
        done = subprocess.run(["chattr", "+i", path], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file can be made immutable here: {done.stderr.strip()}")
        made.append(path)

    yield make
    for path in made:
        subprocess.run(["chattr", "-i", path], check=True)


def test_a_read_only_file_is_refused_so_that_opening_is_tried_again(tmp_path, immutable):
    path = tmp_path / "telemetry.db"
    with contextlib.closing(SensorDataSQLRepository(path)) as repository:
        fill(repository, 3)
    before = path.read_bytes()
    immutable(path)
    assert reason_of(lambda: SensorDataSQLRepository(path)) == "read-only"
    assert path.read_bytes() == before


def test_a_place_where_nothing_may_be_made_is_named_as_such(tmp_path, immutable):
    immutable(tmp_path)
    reason = reason_of(lambda: SensorDataSQLRepository(tmp_path / "telemetry.db"))
    assert reason == "no permission"
