"""A damaged database goes into quarantine with its WAL, whatever happens, and never too often."""

import contextlib
import errno
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from storage_fixtures import WHO, deliver, events, execute, fill, rows

from sensor_node.core.errors import DatabaseUnusable, StorageUnavailable
from sensor_node.storage.engine import quarantine
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.repository import SensorDataSQLRepository

NOW = 1_800_000_000.0
MINUTE = 60.0
FOLDED, IN_WAL = 30, 12


class Crash(BaseException):
    """Not to be caught by anything but the test."""


@pytest.fixture
def path(tmp_path):
    return crashed(tmp_path, "telemetry.db")


def crashed(tmp_path, name):
    """As a crash leaves it: some readings in the file, some in its WAL."""
    living, dead = tmp_path / "living" / name, tmp_path / "dead" / name
    living.parent.mkdir()
    with contextlib.closing(SensorDataSQLRepository(living)) as repository:
        fill(repository, FOLDED)
        repository.checkpoint(truncate=True)
        fill(repository, IN_WAL)
        shutil.copytree(living.parent, dead.parent)
    assert quarantine.wal_of(dead).stat().st_size
    return dead


def count(database):
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT count(*) FROM message").fetchone()[0]


def garble(database):
    with database.open("r+b") as file:
        file.write(b"\xff" * 1024)


def crash_at_directory_change(monkeypatch, failing):
    """The process dies before its change number `failing` (from 0) of the directory."""
    calls = iter(range(100))

    def counted(act):
        def acted(*arguments, **options):
            if next(calls) == failing:
                raise Crash
            return act(*arguments, **options)

        return acted

    for place, name in ((os, "link"), (Path, "rename"), (Path, "unlink"), (os, "fsync")):
        monkeypatch.setattr(place, name, counted(getattr(place, name)))


def test_its_wal_goes_with_it_under_a_name_that_tells_when(path):
    moved = quarantine.move(path, NOW)
    assert moved.name == "telemetry.db.damaged-20270115T080000Z"
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "telemetry.db.damaged-20270115T080000Z",
        "telemetry.db.damaged-20270115T080000Z-wal",
        "telemetry.db.turnstile",
        "telemetry.db.writer",
    ]
    assert quarantine.files(path) == [moved]
    assert count(moved) == FOLDED + IN_WAL


@pytest.mark.parametrize("failing", range(5))
def test_a_crash_at_any_step_loses_nothing_and_mixes_nothing(path, monkeypatch, failing):
    with monkeypatch.context() as fault:
        crash_at_directory_change(fault, failing)
        with pytest.raises(Crash):
            quarantine.move(path, NOW)
    with contextlib.closing(SensorDataSQLRepository(path, replaces=True)) as repository:
        [(stored,)] = rows(repository, "SELECT count(*) FROM message")
        if moved := quarantine.files(path):
            assert stored == 0
            assert count(moved[0]) == FOLDED + IN_WAL
            fill(repository, 1)
        else:
            assert stored == FOLDED + IN_WAL
            # And what was begun is in nobody's way the next time.
            assert count(quarantine.move(path, NOW + 1)) == FOLDED + IN_WAL


def test_a_file_system_without_links_will_do(path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert count(quarantine.move(path, NOW)) == FOLDED + IN_WAL


def test_each_time_it_waits_twice_as_long(path):
    def moves(now):
        path.touch()
        return quarantine.move(path, now) is not None

    assert moves(NOW)
    assert not moves(NOW + 9 * MINUTE)
    assert moves(NOW + 10 * MINUTE)
    assert not moves(NOW + 29 * MINUTE)
    assert moves(NOW + 30 * MINUTE)
    now = NOW + 30 * MINUTE
    for _ in range(12):
        now += 86_400.0
        assert moves(now)


@pytest.mark.parametrize(
    "name",
    ["box[1].db", "*.db", "?.db", "[!a].db", "**", "a\\b.db", "-", "a.damaged-1.db", "ä b.db"],
)
def test_the_name_of_a_database_may_be_any(tmp_path, monkeypatch, name):
    path = crashed(tmp_path, name)
    with monkeypatch.context() as fault:
        crash_at_directory_change(fault, 2)  # its WAL has both names
        with pytest.raises(Crash):
            quarantine.move(path, NOW)
    [moved] = quarantine.files(path)
    assert moved.name == f"{name}.damaged-20270115T080000Z"
    with contextlib.closing(SensorDataSQLRepository(path, replaces=True)) as repository:
        assert rows(repository, "SELECT count(*) FROM message") == [(0,)]
    assert count(moved) == FOLDED + IN_WAL
    path.touch()
    assert not quarantine.is_time(path, NOW + 9 * MINUTE)
    assert quarantine.move(path, NOW + 10 * MINUTE)
    assert len(quarantine.files(path)) == 2


def test_the_damaged_databases_of_others_are_not_its_own(tmp_path):
    for name in ("a1.db", "a[1].db", "a[1].db.damaged-20270115T080000Z", "a[1].dbx"):
        (tmp_path / f"{name}.damaged-20270115T080000Z").touch()
    assert [file.name for file in quarantine.files(tmp_path / "a[1].db")] == [
        "a[1].db.damaged-20270115T080000Z"
    ]


def test_a_clock_that_was_set_back_does_not_keep_it_waiting(path):
    assert quarantine.move(path, NOW)
    path.touch()
    assert quarantine.move(path, NOW - 3600)


def test_nothing_that_lies_there_is_overwritten(path):
    name = path.with_name("telemetry.db.damaged-20270115T080000Z-wal")
    name.write_text("somebody's")
    assert quarantine.move(path, NOW) is None
    assert name.read_text() == "somebody's"
    path.unlink()
    with pytest.raises(FileExistsError):
        quarantine.clear(path, NOW)
    assert quarantine.clear(path, NOW + 1).name == "telemetry.db.damaged-20270115T080001Z-wal"


def test_other_files_are_no_databases(path):
    for name in ("x", "20270115T080000Z-wal", "20270115T080000Z.gz"):
        path.with_name(f"telemetry.db.damaged-{name}").touch()
    assert quarantine.files(path) == []


# A process that has it open


def test_the_next_use_begins_a_fresh_one_and_history_says_so(path):
    garble(path)
    quarantine.wal_of(path).unlink()
    with pytest.raises(StorageUnavailable) as caught:
        SensorDataSQLRepository(path, replaces=True)
    assert caught.value.reason == "replaced"
    with contextlib.closing(SensorDataSQLRepository(path, replaces=True)) as repository:
        repository.begin_run(WHO, NOW, "run")
        [moved] = quarantine.files(path)
        assert events(repository, "database damaged") == [f"it was moved to {moved}"]
        assert events(repository, "started")


def meet_damage(repository):
    """SQLite meets a damaged page."""
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    with repository._transaction():
        raise error


@contextlib.contextmanager
def processes(path, count, *, replaces=True):
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                contextlib.closing(SensorDataSQLRepository(path, replaces=replaces))
            )
            for _ in range(count)
        ]


def test_every_process_follows_whoever_moves_it(path):
    with processes(path, 4) as (first, *others):
        with pytest.raises(StorageUnavailable, match=r"^replaced"):
            meet_damage(first)
        fill(first, 1)
        uses = (lambda one: one.version(), lambda one: one.counts(), lambda one: fill(one, 1))
        for other, use in zip(others, uses, strict=True):
            with pytest.raises(StorageUnavailable, match=r"^replaced"):
                use(other)
            use(other)
        assert {other.counts().captured for other in others} == {2}
        [moved] = quarantine.files(path)
    assert count(moved) == FOLDED + IN_WAL
    assert count(path) == 2


def test_who_comes_too_late_moves_nothing(path):
    with processes(path, 2) as (first, second):
        with pytest.raises(StorageUnavailable, match=r"^replaced"):
            meet_damage(first)
        fill(first, 1)
        with pytest.raises(StorageUnavailable):
            meet_damage(second)
        assert len(quarantine.files(path)) == 1
        fill(second, 1)
    assert count(path) == 2


def test_so_soon_after_the_last_time_it_stays_where_it_is(path):
    with processes(path, 1) as [repository]:
        with pytest.raises(StorageUnavailable, match=r"^replaced"):
            meet_damage(repository)
        fill(repository, 1)
        for _ in range(3):
            with pytest.raises(StorageUnavailable, match=r"^damaged"):
                meet_damage(repository)
        assert repository.counts().captured == 1
    assert len(quarantine.files(path)) == 1


def test_a_place_where_nothing_can_be_moved_says_so(path, monkeypatch):
    def refuse(self, target):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        processes(path, 1) as [repository],
        pytest.raises(StorageUnavailable, match="cannot be moved aside: Permission denied"),
    ):
        meet_damage(repository)
    assert count(path) == FOLDED + IN_WAL


def test_a_file_whose_data_the_disk_does_not_give_is_not_moved(path, monkeypatch):
    """SQLite calls that damage, too. When the disk gives the data again, all is there."""

    def refuse(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    with processes(path, 2) as repositories:
        before = os.listdir("/proc/self/fd")
        with monkeypatch.context() as failing:
            failing.setattr(os, "pread", refuse)
            for _ in range(3):
                for repository in repositories:
                    with pytest.raises(StorageUnavailable, match=r"^I/O error: .*Input/output"):
                        meet_damage(repository)
        for repository in repositories:
            fill(repository, 1)
            assert repository.counts().captured > FOLDED + IN_WAL
        assert len(os.listdir("/proc/self/fd")) == len(before)
    assert quarantine.files(path) == []


def test_a_command_moves_nothing(path):
    with (
        processes(path, 1, replaces=False) as [repository],
        pytest.raises(StorageUnavailable, match=r"^damaged"),
    ):
        meet_damage(repository)
    assert quarantine.files(path) == []


def test_what_a_person_leaves_of_it_is_kept_out_of_the_fresh_one(path):
    """A person deleted the file alone. SQLite would delete its WAL, or read it as the new one's."""
    path.unlink()
    wal = quarantine.wal_of(path).read_bytes()
    with processes(path, 1) as [repository]:
        assert repository.counts().captured == 0
    [quarantined] = path.parent.glob("*.damaged-*")
    assert quarantined.read_bytes() == wal


def test_a_file_that_was_never_ours_is_not_touched(tmp_path):
    path = tmp_path / "telemetry.db"
    path.write_text("a letter\n" * 100)
    for _ in range(2):
        with pytest.raises(DatabaseUnusable, match="is not a SQLite database"):
            SensorDataSQLRepository(path, replaces=True)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "pragma",
    ["application_id = 42", "user_version = 0", "user_version = -1", "user_version = 4242"],
)
def test_our_tables_under_another_header_are_damaged(path, pragma):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA {pragma}")
    with pytest.raises(StorageUnavailable, match=r"^replaced"):
        SensorDataSQLRepository(path, replaces=True)
    with pytest.raises(StorageUnavailable), open_reader(quarantine.files(path)[0]):
        pass


# The check


TAMPERED = {
    "a column that has another name": "ALTER TABLE batch RENAME COLUMN failure_order TO tern",
    "a batch range that is gone": "DELETE FROM batch WHERE first_id = 1",
    "a tally that is wrong": "UPDATE tally SET n = n + 1 WHERE status = 'SENT'",
    "a row that is gone": "DELETE FROM message WHERE id = 7",
    "a number that is text": "UPDATE batch SET failure_order = 'x'",
    "an infinite value": "UPDATE message SET value = 9e999 WHERE id = 7",
    "a name that is no UTF-8": "UPDATE message SET name = CAST(x'ff' AS TEXT) WHERE id = 7",
    "settings that are no JSON": "UPDATE key_value SET value = '{' WHERE name = 'settings'",
    "a sink that is gone": "DELETE FROM sink",
    "a stream of no name": "UPDATE stream SET name = 'x'",
}


@pytest.fixture
def in_use(tmp_path):
    path = tmp_path / "telemetry.db"
    with contextlib.closing(SensorDataSQLRepository(path)) as repository:
        repository.begin_run(WHO, NOW, "run")
        fill(repository, FOLDED)
        deliver(repository, 10)
        repository.check_for_damage(60.0)
    return path


@pytest.mark.parametrize("statement", TAMPERED.values(), ids=TAMPERED)
def test_a_check_finds(in_use, statement):
    with contextlib.closing(sqlite3.connect(in_use, isolation_level=None)) as connection:
        connection.execute(statement)
    with (
        processes(in_use, 1, replaces=False) as [repository],
        pytest.raises(StorageUnavailable, match=r"^damaged"),
    ):
        repository.check_for_damage(60.0)


def test_a_check_whose_time_is_up_has_found_nothing(in_use):
    with processes(in_use, 1, replaces=False) as [repository]:
        execute(repository, "DELETE FROM message WHERE id = 7")
        repository.check_for_damage(0.0)
        assert repository.counts().captured == FOLDED


def test_counts_that_do_not_add_up_stop_whoever_goes_by_them(in_use):
    with processes(in_use, 1, replaces=False) as [repository]:
        execute(repository, "UPDATE tally SET n = n + 1 WHERE status = 'SENT'")
        for use in (repository.counts, lambda: repository.sample(1.0)):
            with pytest.raises(StorageUnavailable, match="the ledger does not add up"):
                use()
