"""A real node whose database is damaged, locked, taken away, or left as a crash leaves it."""

import contextlib
import json
import os
import random
import re
import sqlite3
import time

import pytest
from checker import judge
from crash.node import assert_on_grid, running
from waiting import wait_until

RATE = 100
PAGE = 1024
# The first byte of a page of rows.
LEAF = 13
START_SECONDS = 5.0
# Longer than every busy timeout (5 s, of the commands), and than a holder of our own write lock
# may live (5 s). The minute of the promise is that of the memory buffer; here it is not waited out.
LOCKED_SECONDS = 6.0
MOVED = re.compile(r"database_damaged .*; moved to (\S+), a fresh one begins")
RANDOM = random.Random("damage")


@pytest.fixture
def node_and_sink(tmp_path):
    with running(tmp_path, sensor={"rate": RATE}) as (node, sink):
        node.await_captured(RATE // 2)
        yield node, sink


def kill_everything(node):
    """All at once, as a power switch does it but for the page cache. What the files then hold."""
    node.kill_all()
    return node.database.read_bytes(), wal(node).read_bytes()


def wal(node):
    return node.database.with_name(node.database.name + "-wal")


def stream(node):
    """The name of the present one."""
    return node.one("SELECT name FROM stream ORDER BY first_id DESC LIMIT 1")


def streams(node):
    """The names of all of them, the oldest first."""
    return [name for (name,) in node.rows("SELECT name FROM stream ORDER BY first_id")]


def in_history(node, kind):
    told = node.run("history", "--json", status=None)  # the database may be just being made
    return [one for one in json.loads(told.stdout or "[]") if one["kind"] == kind]


def await_another_stream(node, before):
    def another():
        with contextlib.suppress(sqlite3.OperationalError, IndexError):  # it is just being made
            return stream(node) != before

    wait_until(another, what="a new stream")


def assert_moved_aside(node):
    """Once, with one loud line, an event and a problem. Where the damaged database is now."""
    wait_until(lambda: MOVED.search(node.log()), what="the loud line", detail=node.story)
    [name] = MOVED.findall(node.log())
    [event] = wait_until(lambda: in_history(node, "database damaged"), what="an event")
    assert name in event["detail"]
    [problem] = [one for one in node.status()["problems"] if name in one["what"]]
    assert problem["hint"].startswith(f"sensor-node-ctl salvage {name}")
    [moved] = node.state.glob("telemetry.db.damaged-*Z")
    assert re.fullmatch(r"telemetry\.db\.damaged-\d{8}T\d{6}Z", moved.name)
    assert str(moved) == name
    return moved


def assert_goes_on(node, sink, *earlier):
    """With a new stream: captured on its grid, nothing dropped, everything delivered."""
    assert stream(node) not in earlier
    node.await_captured(RATE // 2)
    assert node.dropped() == 0
    assert_on_grid(node.times_us(), RATE)
    assert_delivered(node, sink, *earlier)


def assert_delivered(node, sink, *earlier):
    """All that this database has, and no id of the streams before was used again."""
    node.await_delivered()
    node.stop()
    judge(node.database, sink.database, earlier=frozenset(earlier)).assert_good()
    assert sink.differing_ids() == set()


def garble(file, since=0):
    """As a card does that gives back anything: the same file, of the same length."""
    with file.open("r+b") as opened:
        opened.seek(since)
        opened.write(RANDOM.randbytes(file.stat().st_size - since))


def garble_old_readings(file):
    """The first page of readings, which nothing needs again before it is purged."""
    whole = file.read_bytes()
    pages = {at: whole[at : at + PAGE] for at in range(0, len(whole), PAGE)}
    full = [at for at, page in pages.items() if page[0] == LEAF and page.count(b"temperature") > 9]
    with file.open("r+b") as opened:
        opened.seek(full[0])
        opened.write(RANDOM.randbytes(PAGE))


DAMAGES = {
    "old readings": lambda node: garble_old_readings(node.database),
    "no header": lambda node: garble(node.database),
    "a header and nothing else": lambda node: garble(node.database, since=1024),
    "half of it": lambda node: os.truncate(node.database, node.database.stat().st_size // 2),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_moved_aside_and_a_fresh_one_begins(node_and_sink, damage):
    node, sink = node_and_sink
    node.stop()
    before = stream(node)
    DAMAGES[damage](node)
    damaged = node.database.read_bytes()
    started = time.monotonic()
    node.start()
    assert time.monotonic() - started < START_SECONDS
    moved = assert_moved_aside(node)
    assert moved.read_bytes()[: len(damaged)] == damaged
    assert_goes_on(node, sink, before)


def test_after_a_crash_its_wal_goes_with_it_whenever_the_next_crash_comes(node_and_sink):
    node, sink = node_and_sink
    node.stop()
    node.start()
    node.await_captured(node.captured() + RATE)
    before = streams(node)
    kill_everything(node)
    garble(node.database)
    damaged, log = node.database.read_bytes(), wal(node).read_bytes()
    assert log
    with node.background("run"):
        wait_until(lambda: list(node.state.glob("*.damaged-*Z")), what="it is moved aside")
        node.kill_all()
    node.start()
    [moved] = node.state.glob("telemetry.db.damaged-*Z")
    assert moved.read_bytes() == damaged
    assert moved.with_name(moved.name + "-wal").read_bytes() == log
    await_another_stream(node, before[-1])
    node.await_captured(RATE // 2)
    assert_delivered(node, sink, *before)


def test_files_that_are_deleted_or_damaged_under_way_cost_the_buffer_nothing(node_and_sink):
    node, sink = node_and_sink
    node.await_delivered()
    first, generator = stream(node), node.pids()["generator"]
    for file in (wal(node), node.shm, node.database):
        file.unlink()
    await_another_stream(node, first)
    node.await_captured(RATE // 2)
    assert node.dropped() == 0
    assert_on_grid(node.times_us(), RATE)
    assert list(node.state.glob("*.damaged-*")) == []

    node.await_delivered()
    second = stream(node)
    with node.locked():
        for file in (node.database, wal(node)):  # whatever is read next is damaged
            garble(file)
    assert_moved_aside(node)
    assert node.pids()["generator"] == generator
    assert_goes_on(node, sink, first, second)


def test_a_lock_of_another_program_delays_commits_and_a_crash_loses_none(node_and_sink):
    node, sink = node_and_sink
    pids = node.pids()
    with contextlib.closing(sqlite3.connect(node.database, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        held = node.captured()
        end = time.monotonic() + LOCKED_SECONDS
        trouble = "locked by another program (generator"
        wait_until(lambda: trouble in str(node.status()["problems"]), what="status says so")
        wait_until(lambda: time.monotonic() >= end, what="the other program is done")
        assert node.captured() == held
        shell.execute("ROLLBACK")
    node.await_captured(held + int(LOCKED_SECONDS * RATE))
    assert node.pids() == pids
    assert node.dropped() == 0
    assert_on_grid(node.times_us(), RATE)

    rows = node.rows("SELECT id, name, value, timestamp_us FROM message ORDER BY id")
    file, log = kill_everything(node)
    assert len(log) > len(file)  # most of what is committed is there and nowhere else
    node.shm.write_bytes(RANDOM.randbytes(32768))
    node.start()
    found = node.rows("SELECT id, name, value, timestamp_us FROM message ORDER BY id")
    assert found[: len(rows)] == rows
    assert_delivered(node, sink)


def test_ids_that_a_damaged_wal_held_are_not_given_to_other_readings(node_and_sink):
    node, sink = node_and_sink
    node.await_delivered()
    before = stream(node)
    _, log = kill_everything(node)
    with wal(node).open("r+b") as file:
        file.seek(len(log) // 2)
        file.write(bytes(~byte & 0xFF for byte in log[len(log) // 2 :][:100]))
    node.start()
    await_another_stream(node, before)
    node.await_captured(node.captured() + RATE)
    assert_delivered(node, sink, before)
