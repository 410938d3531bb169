"""P5: a database whose -shm file would find no room is not opened: SQLite would die of SIGBUS."""

import contextlib
import os
from types import SimpleNamespace

import pytest
from storage_fixtures import fill

from sensor_node.errors import StorageUnavailable
from sensor_node.storage import holders, shm
from sensor_node.storage.connection import PAGE_SIZE, reading
from sensor_node.storage.repository import SensorDataSQLRepository

REGION = 32 * 1024


@pytest.fixture
def disk(monkeypatch):
    """Says how many bytes are free, and what else statvfs tells."""

    def say(free, *, blocks=1000, flags=0):
        found = SimpleNamespace(f_blocks=blocks, f_flag=flags, f_bavail=free // 512, f_frsize=512)
        monkeypatch.setattr(os, "statvfs", lambda path: found)

    return say


def has_room(path) -> bool:
    try:
        shm.insist_on_room(path, PAGE_SIZE)
    except StorageUnavailable as error:
        assert error.reason == "disk full"
        return False
    return True


def test_all_of_the_index_must_have_room(tmp_path, disk) -> None:
    disk(REGION)
    assert has_room(tmp_path / "x.db")
    disk(REGION - 512)
    assert not has_room(tmp_path / "x.db")


@pytest.mark.parametrize(("frames", "regions"), [(4095, 1), (4096, 2), (8192, 3)])
def test_a_long_wal_has_a_long_index(tmp_path, disk, frames, regions) -> None:
    with (tmp_path / "x.db-wal").open("wb") as wal:
        wal.truncate(frames * (PAGE_SIZE + shm.FRAME_HEADER_BYTES))
    disk(regions * REGION)
    assert has_room(tmp_path / "x.db")
    disk(regions * REGION - 512)
    assert not has_room(tmp_path / "x.db")


def test_what_the_file_has_already_needs_no_room(tmp_path, disk) -> None:
    disk(0)
    with (tmp_path / "x.db-shm").open("wb") as file:
        file.write(bytes(REGION // 2))
        file.flush()
        os.fsync(file.fileno())
        file.truncate(REGION)  # the rest is a hole
        assert not has_room(tmp_path / "x.db")
        file.write(bytes(REGION // 2))
        file.flush()
        os.fsync(file.fileno())
        assert has_room(tmp_path / "x.db")


def test_where_nothing_is_counted_or_written_it_is_not_asked_for(tmp_path, disk) -> None:
    disk(0, blocks=0)
    assert has_room(tmp_path / "x.db")
    disk(0, flags=os.ST_RDONLY)
    assert has_room(tmp_path / "x.db")


def test_a_directory_that_is_not_there_is_told_of_by_who_opens(tmp_path) -> None:
    assert has_room(tmp_path / "gone" / "x.db")


@pytest.mark.parametrize("is_open", [True, False])
def test_a_reader_asks_for_room_only_where_it_may_have_to_make_the_index(
    tmp_path, disk, monkeypatch, is_open
) -> None:
    path = tmp_path / "x.db"
    repository = SensorDataSQLRepository(path)
    fill(repository, 3)
    repository.close()
    disk(0)
    monkeypatch.setattr(holders, "is_open", lambda database: is_open)
    with contextlib.ExitStack() as stack:
        if not is_open:
            stack.enter_context(pytest.raises(StorageUnavailable, match="its -shm file"))
        with reading(path) as connection:
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
