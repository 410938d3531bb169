"""Disk has limits that hold (P5): what the database may use, and what it uses."""

import contextlib
import os
import sqlite3
from collections import namedtuple

import pytest
from storage_fixtures import fill, readings

from sensor_node.storage import checkpoint, room
from sensor_node.storage.checkpoint import wal_bytes
from sensor_node.storage.room import Room

MIB = 1 << 20
Disk = namedtuple("Disk", "f_bavail f_frsize")


@pytest.fixture
def free(monkeypatch):
    """Says how much of the disk is free."""

    def say(count):
        monkeypatch.setattr(os, "statvfs", lambda path: Disk(count // 512, 512))

    say(1 << 40)
    return say


def test_on_a_large_disk_max_size_is_the_limit(repository, free):
    fill(repository, 1000)
    space = repository.space(Room(8 * MIB, 64 * MIB))
    assert space.limit == 8 * MIB
    assert 0 < space.used <= space.file_bytes < MIB
    assert space.left == space.limit - space.used
    assert space.disk_free == 1 << 40


def test_on_a_full_disk_the_file_may_not_grow(repository, free):
    fill(repository, 1000)
    free(64 * MIB)
    space = repository.space(Room(256 * MIB, 64 * MIB))
    assert space.limit == space.file_bytes
    free(65 * MIB)
    assert repository.space(Room(256 * MIB, 64 * MIB)).limit == space.file_bytes + MIB


def test_pages_that_eviction_freed_are_room_even_on_a_full_disk(repository, free):
    free(0)
    fill_free = Room(1 << 40, 0)
    free(1 << 40)
    fill(repository, 5000)
    free(0)
    before = repository.space(fill_free)
    repository.evict_oldest("min_free", 0.0)
    after = repository.space(fill_free)
    assert after.limit == before.limit
    assert after.left > before.left + 20_000
    assert repository.capture(readings(100), [], 0.0, fill_free)


def test_without_room_capture_stores_nothing(repository, free):
    fill(repository, 100)
    used = repository.space(Room(1 << 40, 0)).used
    assert not repository.capture(readings(1), [], 0.0, Room(used, 0))
    assert repository.capture(readings(1), [], 0.0, Room(used + 1, 0))


def test_a_wal_beyond_its_limit_stops_capture_when_the_room_left_is_less(
    repository, free, monkeypatch
):
    fill(repository, 1000)
    used, wal = repository.space(Room(1 << 40, 0)).used, repository.wal_bytes()
    monkeypatch.setattr(room, "WAL_LIMIT_BYTES", wal - 5000)
    assert not repository.capture(readings(1), [], 0.0, Room(used + 5000, 0))
    assert repository.capture(readings(1), [], 0.0, Room(used + 5001, 0))


def test_a_wal_that_a_reader_keeps_long_is_no_reason_to_evict(repository, free, monkeypatch):
    """Someone leaves a shell open over night: evicting everything would not make it shorter."""
    fill(repository, 1000)
    before = repository.space(Room(8 * MIB, 0))
    monkeypatch.setattr(room, "WAL_LIMIT_BYTES", -100 * MIB)
    after = repository.space(Room(8 * MIB, 0))
    assert (after.left, after.used) == (before.left, before.used)
    assert after.wal_excess > 100 * MIB
    assert not after.accepts_readings


# Checkpoints


def test_without_a_wal_its_size_is_nothing(tmp_path):
    assert wal_bytes(tmp_path / "none.db") == 0


def test_nothing_but_a_checkpoint_moves_the_wal_into_the_file(repository):
    before = repository.path.stat().st_size
    fill(repository, 20_000)
    assert repository.wal_bytes() > 500_000
    assert repository.path.stat().st_size == before
    repository.checkpoint(truncate=False)
    assert repository.path.stat().st_size > 500_000


def test_a_passive_checkpoint_lets_the_next_commits_use_the_wal_again(repository):
    fill(repository, 20_000)
    size = repository.wal_bytes()
    repository.checkpoint(truncate=False)
    fill(repository, 1)
    assert repository.wal_bytes() == size


def test_truncating_gives_the_disk_back(repository):
    fill(repository, 20_000)
    repository.checkpoint(truncate=True)
    assert repository.wal_bytes() == 0
    assert repository.counts().pending == 20_000


@pytest.mark.parametrize("truncate", [False, True])
def test_a_checkpoint_waits_for_no_reader(repository, truncate, monkeypatch):
    monkeypatch.setattr(checkpoint, "WAL_LIMIT_BYTES", 0)
    fill(repository, 1000)
    with contextlib.closing(sqlite3.connect(repository.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM message").fetchall()
        fill(repository, 1000)
        repository._database.connection.set_progress_handler(pytest.fail, 10_000_000)
        repository.checkpoint(truncate=truncate)
        assert repository.wal_bytes() > 0
        assert reader.execute("SELECT count(*) FROM message").fetchall() == [(1000,)]
        timeout = repository._database.connection.execute("PRAGMA busy_timeout").fetchone()
    assert timeout == (250,)
    assert repository.counts().pending == 2000
