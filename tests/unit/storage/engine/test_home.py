"""A database with several names is used by the one that has its WAL, before anything is opened."""

import contextlib
import os
import shutil
import sqlite3

import pytest
from storage_fixtures import new_stream

from sensor_node.core.errors import DatabaseUnusable
from sensor_node.storage.engine import home
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.repair.damaged_file import DamagedFile
from sensor_node.storage.repository import SensorDataSQLRepository
from sensor_node.system import locks


@pytest.fixture
def database(tmp_path):
    """One that has been at home here; not in memory, where not every kernel has attributes."""
    path = tmp_path / "home" / "telemetry.db"
    path.parent.mkdir()
    SensorDataSQLRepository(path).close()
    try:
        os.getxattr(path, home.ATTRIBUTE)
    except OSError as error:
        pytest.skip(f"no attributes of files here: {error}")
    return path


@pytest.fixture
def another(tmp_path):
    (tmp_path / "away").mkdir()
    return tmp_path / "away" / "telemetry.db"


def use(path):
    SensorDataSQLRepository(path).close()


USES = [use, lambda path: open_reader(path).close(), lambda path: DamagedFile(path, "node").close()]
WAYS = pytest.mark.parametrize("action", USES, ids=["writer", "reader", "salvage"])


@WAYS
def test_by_a_hard_link_it_is_refused_with_its_home(database, another, action) -> None:
    os.link(database, another)
    before = database.read_bytes()
    with pytest.raises(DatabaseUnusable) as caught:
        action(another)
    assert str(caught.value) == (
        f"{another}: is one of 2 names (hard links), its WAL lies beside {database}; "
        "use that, or a copy"
    )
    assert database.read_bytes() == before
    left = {name.name for name in another.parent.iterdir()} - {another.name}
    assert not {name for name in left if name.endswith(("-wal", "-shm"))}


@WAYS
def test_at_home_it_may_have_any_number_of_names(database, another, action) -> None:
    os.link(database, another)
    action(database)


def test_a_wal_of_another_database_beside_the_link_is_neither_asked_nor_used(
    database, another
) -> None:
    with contextlib.closing(SensorDataSQLRepository(another)) as repository:
        new_stream(repository)
        wal = another.with_name("telemetry.db-wal")
        shutil.copy(wal, another.with_name("kept"))
    another.unlink()
    os.link(database, another)
    another.with_name("kept").rename(wal)
    before = database.read_bytes()
    with pytest.raises(DatabaseUnusable, match="hard links"):
        use(another)
    assert database.read_bytes() == before
    assert wal.exists()


def test_one_that_comes_into_the_place_of_an_open_one_is_refused(database, another) -> None:
    with contextlib.closing(SensorDataSQLRepository(another, replaces=True)) as repository:
        os.link(database, another.with_name("new"))
        another.with_name("new").rename(another)
        before = database.read_bytes()
        for _ in range(3):
            with contextlib.suppress(Exception):
                new_stream(repository)
        with pytest.raises(DatabaseUnusable, match="hard links"):
            repository.counts()
    assert database.read_bytes() == before


def test_a_moved_or_copied_file_is_at_home_where_it_is(database, another) -> None:
    shutil.copy2(database, another)
    use(another)
    os.link(another, another.with_name("link"))
    use(another)
    moved = database.with_name("moved.db")
    database.rename(moved)
    use(moved)
    os.link(moved, database)
    use(moved)
    with pytest.raises(DatabaseUnusable, match=str(moved)):
        use(database)


def test_of_an_empty_file_with_two_names_neither_is_used(tmp_path) -> None:
    names = [tmp_path / "a.db", tmp_path / "b.db"]
    names[0].touch()
    os.link(*names)
    for name in names:
        with pytest.raises(DatabaseUnusable, match="nobody knows which has the WAL"):
            use(name)
    assert names[0].stat().st_size == 0
    names[1].unlink()
    use(names[0])


def test_a_damaged_one_is_at_home_where_it_was_moved(database, another) -> None:
    os.link(database, another)
    database.write_bytes(b"\xff" * 4096)
    with contextlib.suppress(Exception):
        SensorDataSQLRepository(database, replaces=True).close()
    [aside] = database.parent.glob("*.damaged-*Z")
    home.insist_on(aside)


def test_where_files_have_no_attributes_a_file_has_one_name(tmp_path, another, monkeypatch) -> None:
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    monkeypatch.setattr(os, "getxattr", unsupported)
    path = tmp_path / "telemetry.db"
    use(path)
    use(path)
    os.link(path, another)
    for name in (path, another):
        with pytest.raises(DatabaseUnusable, match="nobody knows"):
            use(name)


def test_the_locks_of_this_process_are_not_given_up_for_it(database) -> None:
    """As to open and close a database file would."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        before = locks.on(database.stat())
        assert before
        home.insist_on(database)
        home.note(database)
        assert locks.on(database.stat()) == before
