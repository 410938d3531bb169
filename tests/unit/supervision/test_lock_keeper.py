"""What a supervisor does about its lock and its pid file, deleted or moved."""

import os

import pytest

from sensor_node.core.errors import ConfigError
from sensor_node.supervision.file_lock import FileLock
from sensor_node.supervision.lock_keeper import LockKeeper, LockState
from sensor_node.supervision.pidfile import ApplianceLock, has_lock, pid_file, write_pid_file


@pytest.fixture
def lock_keeper(config):
    lock_keeper = LockKeeper(config)
    assert lock_keeper.take()
    write_pid_file(config)
    yield lock_keeper
    lock_keeper.close()


def test_what_is_there_is_left_alone(lock_keeper, config) -> None:
    file = pid_file(config.runtime_directory)
    before = file.stat()
    assert lock_keeper.keep(config) is LockState.AS_IT_WAS
    assert file.stat() == before


@pytest.mark.parametrize("spoil", [os.unlink, lambda file: os.truncate(file, 0)])
def test_a_pid_file_is_made_anew(lock_keeper, config, spoil) -> None:
    file = pid_file(config.runtime_directory)
    spoil(file)
    assert lock_keeper.keep(config) is LockState.PID_FILE_MADE_ANEW
    assert file.read_text().startswith(f"{os.getpid()}\n")
    assert lock_keeper.keep(config) is LockState.AS_IT_WAS


def test_a_pid_file_of_another_is_left_to_it(lock_keeper, config) -> None:
    pid_file(config.runtime_directory).write_text("1\nanother's\n")
    assert lock_keeper.keep(config) is LockState.AS_IT_WAS


def test_a_lock_is_made_anew_and_excludes_others(lock_keeper, config) -> None:
    before = len(os.listdir("/proc/self/fd"))
    lock_keeper._lock.file.unlink()
    assert not lock_keeper.is_in_place
    assert not has_lock(config, os.getpid())
    assert lock_keeper.keep(config) is LockState.LOCK_MADE_ANEW
    assert lock_keeper.is_in_place
    assert has_lock(config, os.getpid())
    assert len(os.listdir("/proc/self/fd")) == before
    other = ApplianceLock(config)
    assert not other.take()
    other.close()


def test_a_lock_that_another_has_made_meanwhile_ends_it(lock_keeper, config) -> None:
    lock_keeper._lock.file.unlink()
    other = ApplianceLock(config)
    assert other.take()
    assert lock_keeper.keep(config) is LockState.TAKEN
    other.close()


def test_a_database_is_locked_as_soon_as_there_is_one(lock_keeper, config) -> None:
    config.storage.path.touch()
    assert lock_keeper.keep(config) is LockState.AS_IT_WAS
    other = FileLock(config.storage.path)
    assert not other.keep()


def test_a_database_that_another_has_ends_it(lock_keeper, config, tmp_path) -> None:
    (tmp_path / "another.db").touch()
    other = FileLock(tmp_path / "another.db")
    assert other.keep()
    os.link(tmp_path / "another.db", config.storage.path)
    assert lock_keeper.keep(config) is LockState.TAKEN
    other.close()


def test_a_place_is_taken_only_with_its_database(lock_keeper, config, tmp_path) -> None:
    config.storage.path.touch()
    lock_keeper.keep(config)
    lock_keeper._lock.file.unlink()
    other = LockKeeper(config)
    assert not other.take(), "the lock file is free, the database is not"
    other.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to another")
def test_where_somebody_else_has_put_a_link_nothing_is_made(lock_keeper, config, tmp_path) -> None:
    (tmp_path / "away").mkdir()
    config.storage.path.symlink_to(tmp_path / "away" / "file")
    assert lock_keeper.is_in_place is False
    os.chown(config.storage.path, 65534, 65534, follow_symlinks=False)
    assert lock_keeper.keep(config) is LockState.AS_IT_WAS
    with pytest.raises(ConfigError, match="is a symbolic link that another user made"):
        LockKeeper(config)
    assert list((tmp_path / "away").iterdir()) == []


def test_a_directory_that_is_gone_is_waited_for(lock_keeper, config, tmp_path) -> None:
    config.state_directory.rename(tmp_path / "moved")
    assert lock_keeper.keep(config) is LockState.AS_IT_WAS
    assert not config.state_directory.exists()
    config.state_directory.mkdir()
    assert lock_keeper.keep(config) is LockState.AS_IT_WAS
    assert list(config.state_directory.iterdir()) == []
    config.state_directory.rmdir()
    (tmp_path / "moved").rename(config.state_directory)
    assert lock_keeper.keep(config) is LockState.AS_IT_WAS
    assert lock_keeper.is_in_place


def test_nothing_goes_into_a_directory_that_came_after_it(lock_keeper, config, tmp_path) -> None:
    config.state_directory.rename(tmp_path / "moved")
    config.state_directory.mkdir()
    other = ApplianceLock(config)
    assert lock_keeper.keep(config) is LockState.AS_IT_WAS, "nobody has the lock"
    assert not lock_keeper.is_in_place
    assert other.take()
    assert lock_keeper.keep(config) is LockState.TAKEN
    assert not pid_file(config.runtime_directory).exists()
    other.close()
