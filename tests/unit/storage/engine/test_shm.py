"""P5: a database whose -shm file would find no room is not opened: SQLite would die of SIGBUS."""

import contextlib
import os
from types import SimpleNamespace

import pytest
from storage_fixtures import ROOM, WHO, fill, readings

from sensor_node.core.errors import StorageUnavailable
from sensor_node.storage.engine import holders, shm
from sensor_node.storage.engine.connection import PAGE_SIZE, read_transaction
from sensor_node.storage.repository import SensorDataSQLRepository

REGION = 32 * 1024


@pytest.fixture
def disk(monkeypatch):
    """Sets how many bytes statvfs() says are free, in blocks of what size."""

    def set_free(free, *, block=1024, blocks=1000):
        status = SimpleNamespace(f_blocks=blocks, f_bavail=free // block, f_frsize=block)
        monkeypatch.setattr(os, "statvfs", lambda path: status)

    return set_free


def has_room(path) -> bool:
    try:
        shm.insist_on_room(path, PAGE_SIZE)
    except StorageUnavailable as error:
        assert error.reason == "disk full"
        return False
    return True


def test_all_of_the_index_must_have_room_and_what_comes_before_its_use(tmp_path, disk) -> None:
    disk(REGION + shm.SLACK_BYTES)
    assert has_room(tmp_path / "x.db")
    disk(REGION + shm.SLACK_BYTES - 1024)
    assert not has_room(tmp_path / "x.db")


def test_as_many_regions_are_reckoned_as_sqlite_makes(tmp_path, disk) -> None:
    path = tmp_path / "x.db"
    repository = SensorDataSQLRepository(path)
    repository.begin_run(WHO, 0.0, "a run")
    seen = set()
    for _ in range(60):
        repository.capture(readings(2000), [], 0.0, ROOM)
        made = path.with_name("x.db-shm").stat().st_size
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(holders, "is_open", lambda database: False)
            disk(made + shm.SLACK_BYTES)
            assert has_room(path)
            disk(made + shm.SLACK_BYTES - 1024)
            assert not has_room(path)
        disk(1 << 30)
        seen.add(made)
    repository.close()
    assert len(seen) >= 2, "some had more than one region"


@pytest.mark.parametrize(("frames", "regions"), [(4062, 1), (4063, 2), (8158, 2), (8159, 3)])
def test_the_first_region_holds_less(tmp_path, disk, frames, regions) -> None:
    """What SQLite's documentation says of the header."""
    with (tmp_path / "x.db-wal").open("wb") as wal:
        wal.truncate(32 + frames * (PAGE_SIZE + shm.FRAME_HEADER_BYTES))
    disk(regions * REGION + shm.SLACK_BYTES)
    assert has_room(tmp_path / "x.db")
    disk(regions * REGION + shm.SLACK_BYTES - 1024)
    assert not has_room(tmp_path / "x.db")


def test_where_sqlite_makes_sure_itself_or_nothing_is_counted_it_is_not_asked_for(
    tmp_path, disk
) -> None:
    disk(0, block=4096)
    assert has_room(tmp_path / "x.db")
    disk(0, blocks=0)
    assert has_room(tmp_path / "x.db")


def test_who_may_not_write_the_index_needs_no_room_for_it(tmp_path, disk, monkeypatch) -> None:
    disk(0)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert has_room(tmp_path / "x.db")
    (tmp_path / "x.db-shm").touch()
    assert not has_room(tmp_path / "x.db")


def test_a_directory_that_is_not_there_is_told_of_by_who_opens(tmp_path) -> None:
    assert has_room(tmp_path / "gone" / "x.db")


@pytest.mark.parametrize("is_open", [True, False])
def test_who_reads_what_is_open_needs_no_room(tmp_path, disk, monkeypatch, is_open) -> None:
    path = tmp_path / "x.db"
    repository = SensorDataSQLRepository(path)
    fill(repository, 3)
    repository.close()
    disk(0)
    monkeypatch.setattr(holders, "is_open", lambda database: is_open)
    with contextlib.ExitStack() as stack:
        if not is_open:
            stack.enter_context(pytest.raises(StorageUnavailable, match="its -shm file"))
        with read_transaction(path) as connection:
            assert connection.execute("SELECT count(*) FROM message").fetchone() == (3,)


def test_a_writer_is_told_at_once_and_goes_on_when_there_is_room(tmp_path, disk) -> None:
    disk(0)
    with pytest.raises(StorageUnavailable, match="its -shm file"):
        SensorDataSQLRepository(tmp_path / "x.db")
    assert not (tmp_path / "x.db").exists()
    disk(1 << 30)
    repository = SensorDataSQLRepository(tmp_path / "x.db")
    fill(repository, 3)
    repository.close()
