"""Disk has limits that hold (P5): what the database may use, and what it uses."""

import contextlib
import os
import sqlite3
from collections import namedtuple

import pytest
from storage_fixtures import DELIVERED, POLICY, RULES, fill, readings, rows

from sensor_node.core.model import Reading
from sensor_node.core.options import MAX_NAME_BYTES
from sensor_node.storage.engine import checkpoint
from sensor_node.storage.engine.checkpoint import wal_bytes
from sensor_node.storage.queue import room
from sensor_node.storage.queue.room import READING_BYTES, RESERVE_BYTES, SizeLimits

MIB = 1 << 20
READING = READING_BYTES + len("temperature")
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
    space = repository.space(SizeLimits(8 * MIB, 64 * MIB))
    assert space.limit == 8 * MIB
    assert 0 < space.used <= space.file_bytes < MIB
    assert space.left == space.limit - space.used
    assert space.disk_free == 1 << 40


def test_on_a_full_disk_the_file_may_not_grow(repository, free):
    fill(repository, 1000)
    repository.checkpoint(truncate=False)
    free(64 * MIB)
    space = repository.space(SizeLimits(256 * MIB, 64 * MIB))
    assert space.limit == space.file_bytes
    free(65 * MIB)
    assert repository.space(SizeLimits(256 * MIB, 64 * MIB)).limit == space.file_bytes + MIB


@pytest.mark.parametrize("min_free", [0, 1, RESERVE_BYTES])
def test_a_reserve_is_kept_however_little_is_to_be_left_to_others(repository, free, min_free):
    """Where nothing more can be written, nothing can be deleted either."""
    repository.checkpoint(truncate=False)
    free(RESERVE_BYTES)
    space = repository.space(SizeLimits(8 * MIB, min_free))
    assert space.limit == space.file_bytes
    free(RESERVE_BYTES + MIB)
    assert repository.space(SizeLimits(8 * MIB, min_free)).limit == space.file_bytes + MIB


def test_what_the_wal_holds_has_its_place_in_the_file_kept_for_it(repository, free):
    """A WAL that cannot be moved can never be emptied: not even by deleting."""
    fill(repository, 5000)
    free(RESERVE_BYTES + MIB)
    space = repository.space(SizeLimits(8 * MIB, 0))
    on_disk = repository.path.stat().st_size
    assert space.unmoved == space.file_bytes - on_disk > 200_000
    assert space.limit == space.file_bytes + MIB - space.unmoved
    repository.checkpoint(truncate=False)
    moved = repository.space(SizeLimits(8 * MIB, 0))
    assert (moved.unmoved, moved.limit) == (0, space.file_bytes + MIB)


@pytest.mark.parametrize("taken", [0, 1])
def test_a_disk_is_cramped_when_others_have_taken_half_of_the_reserve(repository, free, taken):
    free(RESERVE_BYTES // 2 - 512 * taken)
    assert repository.space(SizeLimits(8 * MIB, 0)).cramped == bool(taken)


def test_pages_that_eviction_freed_are_room_even_on_a_full_disk(repository, free):
    free(0)
    fill_free = SizeLimits(1 << 40, 0)
    free(1 << 40)
    fill(repository, 5000)
    free(0)
    before = repository.space(fill_free)
    repository.evict_oldest("min_free", 0.0)
    after = repository.space(fill_free)
    assert after.limit == before.limit
    assert after.left > before.left + 20_000
    assert repository.capture(readings(100), [], 0.0, fill_free) == 100


def test_capture_stores_from_the_first_on_what_there_is_room_for(repository, free):
    fill(repository, 100)
    used = repository.space(SizeLimits(1 << 40, 0)).used
    assert repository.capture(readings(3), [], 0.0, SizeLimits(used, 0)) == 0
    room = SizeLimits(used + 2 * READING, 0)
    assert repository.capture(readings(3, 7), [], 0.0, room) == 2
    last = rows(repository, "SELECT timestamp_us FROM message WHERE id > 100")
    assert last == [(7,), (1_000_007,)]


@pytest.mark.parametrize("name_bytes", [1, 11, 60, MAX_NAME_BYTES])
def test_no_reading_takes_more_than_is_reckoned(repository, free, name_bytes):
    before = repository.space(SizeLimits(1 << 40, 0)).used
    longest = [Reading("n" * name_bytes, 0.1, 1 << 60)] * 10_000
    assert repository.capture(longest, [], 0.0, SizeLimits(1 << 40, 0)) == 10_000
    assert repository.space(SizeLimits(1 << 40, 0)).used - before <= 10_000 * (
        READING_BYTES + name_bytes
    )


@pytest.fixture
def long_log(repository, monkeypatch):
    """A WAL that has something to move, and counts as beyond its limit."""
    fill(repository, 5000)
    monkeypatch.setattr(room, "WAL_LIMIT_BYTES", repository.wal_bytes() - 1)
    monkeypatch.setattr(room, "WAL_CHECKPOINT_BYTES", repository.wal_bytes() - 1)
    return repository


@contextlib.contextmanager
def reading(repository):
    """Another program's transaction."""
    with contextlib.closing(sqlite3.connect(repository.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM message").fetchall()
        yield


def test_a_log_of_any_length_stops_no_capture_while_the_disk_has_room(long_log, free):
    free(RESERVE_BYTES + long_log.space(SizeLimits(1 << 40, 0)).unmoved + MIB)
    with reading(long_log):
        fill(long_log, 100)
        assert not long_log.log_is_held(0)
        assert long_log.capture(readings(100), [], 0.0, SizeLimits(1 << 40, 0)) == 100


def test_a_log_is_held_where_the_disk_has_no_more_and_somebody_reads(long_log, free):
    with reading(long_log):
        fill(long_log, 100)
        free(RESERVE_BYTES + long_log.space(SizeLimits(1 << 40, 0)).unmoved)
        assert long_log.log_is_held(0)
    assert not long_log.log_is_held(0), "it was emptied for that"


@pytest.mark.parametrize(("min_free", "held"), [(0, False), (8 * MIB, True)])
def test_a_held_log_leaves_min_free_to_others(long_log, free, min_free, held):
    free(2 * RESERVE_BYTES)
    with reading(long_log):
        fill(long_log, 100)
        assert long_log.log_is_held(min_free) == held


def test_a_log_within_its_limit_is_tight_only_when_it_eats_from_the_reserve(
    repository, free, monkeypatch
):
    fill(repository, 5000)
    monkeypatch.setattr(room, "WAL_CHECKPOINT_BYTES", repository.wal_bytes() - 1)
    unmoved = repository.space(SizeLimits(1 << 40, 0)).unmoved
    free(unmoved + 2 * MIB)
    assert not repository.space(SizeLimits(1 << 40, 0)).tight
    free(unmoved + 2 * MIB - 1024)
    space = repository.space(SizeLimits(1 << 40, 0))
    assert (space.tight, space.exhausted) == (True, False)
    free(unmoved + MIB // 2 - 1024)
    assert repository.space(SizeLimits(1 << 40, 0)).exhausted


def test_nothing_more_is_claimed_with_a_settlement_while_the_log_is_tight(long_log, free):
    first = long_log.claim_fresh("sender", POLICY, 0.0, 100)
    free(0)
    held, claim = long_log.settle_and_claim(first, DELIVERED, RULES, POLICY, 0.0, 100)
    assert (held, claim) == (True, None)
    free(1 << 40)
    second = long_log.claim_fresh("sender", POLICY, 0.0, 100)
    held, claim = long_log.settle_and_claim(second, DELIVERED, RULES, POLICY, 0.0, 100)
    assert held
    assert claim


def test_a_log_that_somebody_reads_is_no_reason_to_evict(long_log, free):
    """Someone leaves a shell open over night: evicting everything would not make it shorter."""
    before = long_log.space(SizeLimits(8 * MIB, 0))
    with reading(long_log):
        fill(long_log, 1)
        after = long_log.space(SizeLimits(8 * MIB, 0))
    assert after.limit == before.limit == 8 * MIB


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
    assert repository.checkpoint(truncate=True).is_emptied
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
        log = repository.checkpoint(truncate=truncate)
        assert (log.busy, log.is_emptied) == (truncate, False)
        assert 0 < log.moved < log.frames
        assert repository.wal_bytes() > 0
        assert reader.execute("SELECT count(*) FROM message").fetchall() == [(1000,)]
        timeout = repository._database.connection.execute("PRAGMA busy_timeout").fetchone()
    assert timeout == (250,)
    assert repository.counts().pending == 2000
