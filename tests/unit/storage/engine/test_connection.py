"""How the database is opened, written to and read, and what is said where it cannot be."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from storage_fixtures import dump, fill, rows

from sensor_node.core.errors import STORAGE_REASONS, DatabaseUnusable, StorageUnavailable
from sensor_node.storage.engine import connection as connections
from sensor_node.storage.engine import refusal, sqlite_errors
from sensor_node.storage.engine.connection import Database, open_reader
from sensor_node.storage.engine.schema import newest_version
from sensor_node.storage.engine.sqlite_errors import translated
from sensor_node.storage.engine.write_lock import Unwatched
from sensor_node.storage.queue import message_ids
from sensor_node.storage.repository import SensorDataSQLRepository


@pytest.fixture
def path(place):
    return place / "telemetry.db"


@contextlib.contextmanager
def opened(path, *, full=False):
    with contextlib.closing(Database(path, Unwatched(), full=full)) as database:
        yield database


def pragma(connection, name):
    [[value]] = connection.execute(f"PRAGMA {name}").fetchall()
    return value


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def make(path, *statements):
    """A database of another making."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(";".join(statements))


def contents(directory):
    return {file.name: file.read_bytes() for file in directory.glob("*.db")}


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("journal_mode", "wal"),
        ("page_size", connections.PAGE_SIZE),
        ("wal_autocheckpoint", 0),  # only the housekeeper does, under the lock
        ("mmap_size", 0),
        ("temp_store", 2),
        ("secure_delete", 0),
        ("busy_timeout", connections.BUSY_TIMEOUT_MS),
    ],
)
def test_a_connection_has_the_settings_that_durability_was_measured_with(path, name, value):
    with opened(path) as database:
        assert pragma(database.connection, name) == value


@pytest.mark.parametrize(("full", "synchronous"), [(True, 2), (False, 1)])
def test_commits_that_must_survive_power_loss_are_synchronous_full(path, full, synchronous):
    with opened(path, full=full) as database:
        assert pragma(database.connection, "synchronous") == synchronous
    with contextlib.closing(SensorDataSQLRepository(path, power_safe=full)) as repository:
        assert pragma(repository._database.connection, "synchronous") == synchronous


def test_a_linked_database_has_its_wal_and_its_lock_where_the_file_is(place):
    (place / "disk").mkdir()
    link = place / "telemetry.db"
    link.symlink_to(place / "disk" / "data.db")
    with contextlib.closing(SensorDataSQLRepository(link)) as repository:
        fill(repository, 10)
        assert repository.wal_bytes() > 0
        suffixes = ("", "-shm", "-wal", ".turnstile", ".writer")
        files = sorted(file.name for file in (place / "disk").iterdir())
        assert files == [f"data.db{suffix}" for suffix in suffixes]
        assert sorted(place.iterdir()) == [place / "disk", link]


# Transactions


def test_a_transaction_that_fails_changes_nothing_and_frees_the_lock(repository, second):
    before = dump(repository)
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), repository._transaction() as connection:
            connection.execute("DELETE FROM tally")
            raise error
    assert dump(repository) == before
    fill(second, 1)
    fill(repository, 1)


def test_a_transaction_that_sqlite_has_rolled_back_itself_reports_the_first_error(repository):
    with pytest.raises(sqlite3.IntegrityError), repository._transaction() as connection:
        connection.execute("INSERT OR ROLLBACK INTO batch(first_id, last_id) VALUES (2, 1)")
    fill(repository, 1)


def test_a_read_that_sqlite_has_rolled_back_itself_reports_the_first_error(repository, monkeypatch):
    """As it does on an I/O error."""

    def fail(connection):
        connection.execute("ROLLBACK")
        raise broken(sqlite3.SQLITE_IOERR_READ)

    monkeypatch.setattr(message_ids, "highest_claimed_id", fail)
    with pytest.raises(StorageUnavailable, match="I/O error"):
        repository.backlog(0.0)


def test_a_read_leaves_no_transaction_open(repository):
    for read in (lambda: repository.backlog(0.0), repository.counts, repository.claims):
        read()
        assert not repository._database.connection.in_transaction
    with pytest.raises(AttributeError):
        repository.due_in(None, None)
    assert not repository._database.connection.in_transaction


# Errors


def broken(code):
    error = sqlite3.OperationalError("something")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (sqlite3.SQLITE_FULL, "disk full"),
        (sqlite3.SQLITE_READONLY, "read-only"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "read-only"),
        (sqlite3.SQLITE_PERM, "no permission"),
        (sqlite3.SQLITE_IOERR, "I/O error"),
        (sqlite3.SQLITE_IOERR_WRITE, "I/O error"),
        (sqlite3.SQLITE_IOERR_FSYNC, "I/O error"),
        (sqlite3.SQLITE_BUSY, "locked by another program"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "locked by another program"),
        (sqlite3.SQLITE_LOCKED, "locked by another program"),
        (sqlite3.SQLITE_CANTOPEN, "cannot be opened"),
        (sqlite3.SQLITE_CORRUPT, "damaged"),
    ],
)
def test_what_may_pass_is_storage_unavailable_with_a_constant_reason(code, reason):
    with pytest.raises(StorageUnavailable) as caught, translated(Path("/x.db")):
        raise broken(code)
    assert caught.value.reason == reason
    assert reason in STORAGE_REASONS
    assert str(caught.value) == f"{reason}: /x.db: something"


def test_a_mistake_of_ours_is_not_taken_for_trouble_with_the_storage():
    for error in (broken(sqlite3.SQLITE_ERROR), sqlite3.ProgrammingError("closed"), KeyError()):
        with pytest.raises(type(error)) as caught, translated(Path("/x.db")):
            raise error
        assert caught.value is error


def test_every_reason_has_its_place_in_the_list():
    known = {*sqlite_errors.REASONS.values(), *refusal.REASONS.values(), "replaced"}
    assert known == set(STORAGE_REASONS)


GARBAGE = b"This is a letter, not a database.\n" * 100


def refused(path, message):
    """Neither a writer nor a reader opens it; nothing changes and nothing stays open."""
    before, open_before = contents(path.parent), descriptors()
    for opening in (lambda: Database(path, Unwatched(), full=False), lambda: open_reader(path)):
        with pytest.raises(DatabaseUnusable) as caught:
            opening()
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)
    assert contents(path.parent) == before
    assert descriptors() == open_before


def test_a_file_that_is_no_database_is_refused_and_left_alone(path):
    path.write_bytes(GARBAGE)
    refused(path, "is not a SQLite database")


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_another_program_s_database_is_refused_and_left_alone(path, mode):
    make(path, f"PRAGMA journal_mode = {mode}", "CREATE TABLE bookmark(url)")
    refused(path, "is another program's database")


def test_a_database_that_only_another_application_id_tells_apart_is_refused(path):
    make(path, "PRAGMA user_version = 1", "PRAGMA application_id = 42")
    refused(path, "is another program's database")


def test_a_newer_schema_is_refused_and_left_alone(path):
    with opened(path):
        pass
    make(path, f"PRAGMA user_version = {newest_version() + 1}")
    refused(path, f"has schema {newest_version() + 1}, this program knows {newest_version()}")


def test_an_empty_file_becomes_a_database(path):
    path.touch()
    with opened(path) as database:
        assert pragma(database.connection, "page_size") == connections.PAGE_SIZE
        assert pragma(database.connection, "user_version") == newest_version()


def test_a_place_that_is_not_there_cannot_be_opened(place):
    open_before = descriptors()
    for _ in range(3):
        with pytest.raises(StorageUnavailable) as caught:
            SensorDataSQLRepository(place / "missing" / "telemetry.db")
        assert caught.value.reason == "cannot be opened"
        with pytest.raises(StorageUnavailable):
            open_reader(place / "missing" / "telemetry.db")
    assert descriptors() == open_before


def test_a_directory_is_refused_and_not_taken_for_a_disk_error(place):
    open_before = descriptors()
    for opens in (SensorDataSQLRepository, open_reader):
        with pytest.raises(DatabaseUnusable, match="is a directory; set another"):
            opens(place)
    assert descriptors() == open_before


def test_a_path_that_is_too_long_for_sqlite_is_refused(place):
    with pytest.raises(DatabaseUnusable, match="is too long for SQLite"):
        SensorDataSQLRepository(place.joinpath(*["d" * 200] * 3, "telemetry.db"))


def test_a_reader_makes_no_database(path):
    with pytest.raises(StorageUnavailable, match=r"^cannot be opened"):
        open_reader(path)
    assert not path.exists()


def test_a_database_locked_by_another_program_says_so(path, monkeypatch):
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_MS", 1)
    with contextlib.closing(SensorDataSQLRepository(path)) as repository:
        fill(repository, 1)
        before = dump(repository)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageUnavailable) as caught:
                fill(repository, 1)
            assert caught.value.reason == "locked by another program"
        assert dump(repository) == before
        fill(repository, 1)


def test_a_damaged_database_says_so_and_is_not_made_worse(path):
    with contextlib.closing(SensorDataSQLRepository(path)) as repository:
        fill(repository, 5000)
        [(root,)] = rows(repository, "SELECT rootpage FROM sqlite_schema WHERE name = 'message'")
    with path.open("r+b") as file:
        file.seek((root - 1) * connections.PAGE_SIZE)
        file.write(b"\xff" * connections.PAGE_SIZE)
    before = contents(path.parent)
    with contextlib.closing(SensorDataSQLRepository(path)) as repository:
        with pytest.raises(StorageUnavailable) as caught:
            fill(repository, 1)
        assert caught.value.reason == "damaged"
        with pytest.raises(StorageUnavailable, match=r"^damaged"):
            repository.backlog(0.0)
    assert contents(path.parent) == before


# Reading


def test_a_reader_sees_what_is_committed_and_cannot_write(repository):
    fill(repository, 3)
    with contextlib.closing(open_reader(repository.path)) as reader:
        assert reader.execute("SELECT count(*) FROM message").fetchall() == [(3,)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM message")


def test_a_reader_that_is_kept_out_does_not_read_the_file_as_if_nobody_wrote(path, monkeypatch):
    """Only where it has no room for a -shm file does it do that."""
    with opened(path):
        pass

    answers = iter([broken(sqlite3.SQLITE_BUSY)])

    def busy_once(connection):
        for error in answers:
            raise error

    monkeypatch.setattr(connections, "schema_version", busy_once)
    with pytest.raises(StorageUnavailable, match=r"^locked by another program"):
        open_reader(path)


def test_a_journal_beside_a_database_with_a_wal_is_put_into_quarantine(path, caplog):
    Database(path, Unwatched(), full=False).close()
    journal = path.with_name(path.name + "-journal")
    for use in (lambda: Database(path, Unwatched(), full=False), lambda: open_reader(path)):
        journal.write_bytes(b"whatever")
        use().close()
        assert not journal.exists()
        assert "no node has made it" in caplog.text
        [quarantined] = path.parent.glob("*-journal.quarantined-*")
        assert quarantined.read_bytes() == b"whatever"
        quarantined.unlink()
        caplog.clear()


def test_that_of_another_program_is_left_to_it(path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE t(x)")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO t VALUES (1)")
    with pytest.raises((DatabaseUnusable, StorageUnavailable)):
        open_reader(path)
    other.execute("COMMIT")
    other.close()
    assert list(path.parent.glob("*quarantined*")) == []
