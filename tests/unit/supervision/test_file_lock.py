"""The database itself is locked, by whatever name it comes."""

import contextlib
import fcntl
import os
import signal
import sqlite3

import pytest

from sensor_node.supervision.file_lock import FileLock, holder


@pytest.fixture
def database(tmp_path):
    file = tmp_path / "telemetry.db"
    file.write_bytes(b"some content")
    return file


@pytest.fixture
def lock():
    """As many as are asked for; each is another open file, as another process would have."""
    with contextlib.ExitStack() as made:
        yield lambda path: made.enter_context(contextlib.closing(FileLock(path)))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_by_another_name_is_the_same_file(lock, database, tmp_path, link) -> None:
    link(database, tmp_path / "another")
    first, second = lock(database), lock(tmp_path / "another")
    assert first.keep()
    before = descriptors()
    assert not second.keep()
    assert descriptors() == before
    assert first.keep()
    first.close()
    assert second.keep()


def test_where_there_is_no_file_yet_it_is_locked_when_it_comes(lock, tmp_path) -> None:
    first, second = lock(tmp_path / "new.db"), lock(tmp_path / "new.db")
    assert first.keep()
    (tmp_path / "new.db").touch()
    assert first.keep()
    assert not second.keep()


def test_one_that_is_moved_is_kept_until_another_has_its_name(lock, database, tmp_path) -> None:
    first, moved = lock(database), tmp_path / "moved.db"
    assert first.keep()
    database.rename(moved)
    assert first.keep()
    assert not lock(moved).keep()
    before = descriptors()
    database.touch()
    assert first.keep()
    assert descriptors() == before
    assert not lock(database).keep()
    assert lock(moved).keep()


def test_one_that_comes_in_its_place_may_be_anothers(lock, database, tmp_path) -> None:
    first, second = lock(database), lock(tmp_path / "another.db")
    (tmp_path / "another.db").touch()
    assert first.keep()
    assert second.keep()
    (tmp_path / "another.db").rename(database)
    assert not first.keep()


def test_it_is_nobodys_business_what_is_no_file(lock, tmp_path) -> None:
    pipe, loop = tmp_path / "pipe.db", tmp_path / "loop.db"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    before = descriptors()
    assert lock(pipe).keep()
    assert lock(loop).keep()
    assert lock(tmp_path).keep()
    assert descriptors() == before


def test_who_only_reads_keeps_others_off_and_is_no_appliance(lock, database) -> None:
    with database.open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert not lock(database).keep()
        assert holder(database.stat()) is None


def test_it_is_nothing_to_sqlite(lock, tmp_path) -> None:
    path = tmp_path / "telemetry.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        assert lock(path).keep()
        connection.execute("CREATE TABLE x(y)")
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        connection.execute("PRAGMA journal_mode = DELETE")


@contextlib.contextmanager
def another_process(act):
    """It does something, then waits for its end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        act()
        os.write(writer, b"!")
        signal.pause()
    os.read(reader, 1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_the_holder_is_a_living_process_that_has_the_file(lock, database) -> None:
    with another_process(lock(database).keep) as pid:
        assert holder(database.stat()) == pid
        assert holder(database.parent.stat()) is None
    assert holder(database.stat()) is None


def test_who_has_died_and_left_the_lock_to_a_child_is_no_holder(database) -> None:
    file = os.open(database, os.O_RDONLY)
    try:
        with another_process(lambda: fcntl.flock(file, fcntl.LOCK_EX)) as pid:
            assert holder(database.stat()) == pid
        # This process has the same open file, and so the lock.
        assert holder(database.stat()) is None
        assert not FileLock(database).keep()
    finally:
        os.close(file)


def test_a_process_does_not_take_itself_for_another(lock, database) -> None:
    assert lock(database).keep()
    assert holder(database.stat()) is None
