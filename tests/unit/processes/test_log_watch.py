"""P7: who keeps the log from being emptied is noted once, with its name, and so is the end."""

import contextlib
import sqlite3

import pytest
from clocks import WALL, ManualClock
from storage_fixtures import events, fill, rows

from sensor_node.processes import log_watch
from sensor_node.processes.log_watch import ATTEMPT_SECONDS, NOTE_SECONDS, UNSEEN, LogWatch
from sensor_node.storage.engine import holders
from sensor_node.storage.engine.checkpoint import WAL_CHECKPOINT_BYTES, WAL_LIMIT_BYTES, Log
from sensor_node.storage.engine.holders import Holder

HELD, EMPTIED = Log(False, 1000, 10), Log(False, 1000, 1000)
SHELL = Holder(8, "sqlite3", writes=False)


class Watch:
    """A housekeeper's, at whose attempts the log is as the test says."""

    def __init__(self, repository, monkeypatch):
        self.repository = repository
        self.clock = ManualClock()
        self.seen = [SHELL]
        monkeypatch.setattr(holders, "find", lambda path, supervisor: self.seen)
        self.begin()

    def begin(self):
        self.watch = LogWatch(self.repository, 1)

    def record_attempt(self, log, wal_bytes=WAL_CHECKPOINT_BYTES + 1):
        self.clock.advance(1)
        return self.watch.record_attempt(log, wal_bytes, self.clock.now())

    def events(self):
        found = events(self.repository)
        return [(kind, detail) for kind, detail in found if kind.startswith("log ")]


@pytest.fixture
def watch(repository, monkeypatch):
    return Watch(repository, monkeypatch)


def test_a_reader_for_long_is_noted_once_as_of_its_beginning_and_so_is_its_end(watch) -> None:
    for _ in range(round(NOTE_SECONDS)):
        watch.record_attempt(HELD)
    assert watch.events() == []
    for _ in range(100):
        watch.record_attempt(HELD)
    assert watch.events() == [("log held", "sqlite3 (pid 8)")]
    [(at,)] = rows(watch.repository, "SELECT at FROM event WHERE kind = 'log held'")
    assert WALL < at <= WALL + 2
    assert watch.repository.log_hold().since == at
    watch.record_attempt(EMPTIED)
    watch.record_attempt(EMPTIED)
    assert watch.events()[1:] == [("log free", "it can be emptied again")]
    assert watch.repository.log_hold() is None


def test_one_that_nobody_can_see_is_noted_if_the_log_is_beyond_its_limit(watch) -> None:
    watch.seen = []
    for _ in range(60):
        watch.record_attempt(HELD, WAL_LIMIT_BYTES)
    assert watch.events() == []
    for _ in range(2):
        watch.record_attempt(HELD, WAL_LIMIT_BYTES + 1)
    assert watch.events() == [("log held", UNSEEN)]


def test_readers_that_come_and_go_are_not_noted_while_the_log_is_within_its_limit(watch) -> None:
    for moved in range(100):
        watch.record_attempt(Log(False, 1000, moved))
    assert watch.events() == []
    for moved in range(20):
        watch.record_attempt(Log(True, 100_000, moved), WAL_LIMIT_BYTES + 1)
    assert watch.events() == [("log held", "sqlite3 (pid 8)")]


def test_what_was_noted_before_is_ended_by_a_successor(watch) -> None:
    for _ in range(20):
        watch.record_attempt(HELD)
    watch.begin()
    for _ in range(20):
        watch.record_attempt(HELD)
    assert len(watch.events()) == 1
    watch.begin()
    watch.record_attempt(None)
    assert [kind for kind, _ in watch.events()] == ["log held", "log free"]


def test_whether_an_attempt_moved_anything_is_told(watch) -> None:
    assert watch.record_attempt(Log(False, 1000, 10))
    assert not watch.record_attempt(Log(False, 2000, 10))
    assert watch.record_attempt(Log(False, 2000, 20))
    assert watch.record_attempt(EMPTIED)
    assert watch.record_attempt(Log(False, 0, 0))
    assert not watch.record_attempt(None)


def test_attempts_are_rare_while_the_one_who_holds_it_is_there(watch) -> None:
    for _ in range(20):
        watch.record_attempt(HELD)
    for _ in range(round(ATTEMPT_SECONDS) - 1):
        watch.clock.advance(1)
        assert watch.watch.is_hopeless(watch.clock.now())
    watch.clock.advance(1)
    assert not watch.watch.is_hopeless(watch.clock.now())
    watch.record_attempt(HELD)
    watch.seen = []
    assert watch.watch.is_hopeless(watch.clock.now()), "nobody has looked so soon"
    watch.clock.advance(1)
    assert not watch.watch.is_hopeless(watch.clock.now())


def test_attempts_are_a_second_apart_at_least_where_the_last_moved_nothing(watch) -> None:
    watch.record_attempt(HELD)
    assert not watch.watch.is_hopeless(watch.clock.now()), "it may be a process of ours"
    watch.record_attempt(HELD)
    assert watch.watch.is_hopeless(watch.clock.now())
    watch.clock.advance(1)
    assert not watch.watch.is_hopeless(watch.clock.now())
    watch.record_attempt(Log(True, 1000, 20))
    assert not watch.watch.is_hopeless(watch.clock.now())


def test_nobody_looks_for_programs_while_the_log_can_be_emptied(watch, monkeypatch) -> None:
    monkeypatch.setattr(log_watch.holders, "find", pytest.fail)
    for log in (None, EMPTIED, Log(False, 1000, 990), EMPTIED, None):
        watch.record_attempt(log)
        watch.watch.is_hopeless(watch.clock.now())


def test_a_real_reader_is_what_an_attempt_finds(repository) -> None:
    fill(repository, 100)
    with contextlib.closing(sqlite3.connect(repository.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM message").fetchall()
        fill(repository, 100)
        assert not repository.checkpoint(truncate=False).is_emptied
    assert repository.checkpoint(truncate=False).is_emptied
