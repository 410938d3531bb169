"""P7: who is in the way is told by name and pid, and no file of the database is opened for it."""

import contextlib
import os
import subprocess
import sys

import pytest
from storage_fixtures import fill

from sensor_node.storage.engine import holders
from sensor_node.storage.engine.holders import Holder, find, is_open

INODE, OTHER_INODE = 4711, 4712
PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
for statement in sys.argv[2].split("; "):
    connection.execute(statement).fetchall()
print("it has begun", flush=True)
sys.stdin.read()
"""
READ = "BEGIN; SELECT count(*) FROM message"


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """Fills a /proc with locks on the -shm file or the database; returns the holders."""
    status = os.stat_result((0o600, INODE, os.makedev(8, 2), 1, 0, 0, 0, 0, 0, 0))
    shm = tmp_path / "x.db-shm"

    def holders_of(*locks, names=(), parents=()):
        (tmp_path / "locks").write_text("".join(f"{line}\n" for line in locks))
        for pid, name in dict(names).items():
            (tmp_path / str(pid)).mkdir()
            (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
            parent = dict(parents).get(pid, 1)
            (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} 1 1\n")
        return find(tmp_path / "x.db", 99, tmp_path)

    real = type(shm).stat
    monkeypatch.setattr(
        type(shm), "stat", lambda path, **options: status if path == shm else real(path, **options)
    )
    return holders_of


def lock(pid, first, last="", *, mode="READ ", device="08:02", inode=INODE):
    return f"1: POSIX  ADVISORY  {mode} {pid} {device}:{inode} {first} {last or first}"


def test_who_reads_and_who_writes_is_told_apart(proc) -> None:
    locks = [
        *(lock(pid, 128) for pid in (7, 8, 9)),  # all that have it open
        lock(8, 124),
        lock(9, 120, mode="WRITE"),
        lock(9, 125),
    ]
    holders = proc(*locks, names={7: "idle", 8: "sqlite3", 9: "python3"})
    assert holders == [Holder(8, "sqlite3", False), Holder(9, "python3", True)]
    assert str(holders[0]) == "sqlite3 (pid 8)"


@pytest.mark.parametrize("byte", range(120, 128))
def test_each_byte_of_a_transaction_counts(proc, byte) -> None:
    assert [holder.pid for holder in proc(lock(8, byte))] == [8]
    assert [holder.pid for holder in proc(lock(8, 120, 127, mode="WRITE"))] == [8]


def test_this_appliances_processes_are_left_out(proc) -> None:
    locks = [lock(pid, 124) for pid in (os.getpid(), 99, 100, 101)]
    holders = proc(*locks, names={100: "child", 101: "other"}, parents={100: 99, 101: 98})
    assert [holder.name for holder in holders] == ["other"]


def test_other_files_and_those_who_wait_are_left_out(proc) -> None:
    waits = "1: -> POSIX  ADVISORY  WRITE 8 08:02:4711 120 120"
    flock = "2: FLOCK  ADVISORY  WRITE 8 08:02:4711 0 EOF"
    open_file = "3: OFDLCK ADVISORY  READ  -1 08:02:4711 124 124"
    assert proc(waits, flock, open_file, lock(8, 124, inode=OTHER_INODE), "nonsense", "") == []
    whole = proc(lock(8, 0, "EOF", mode="WRITE"))
    assert [holder.writes for holder in whole] == [True]


def test_the_inode_alone_counts_where_no_device_matches(proc) -> None:
    elsewhere = lock(8, 124, device="00:2f")
    assert [holder.pid for holder in proc(elsewhere)] == [8]
    assert [holder.pid for holder in proc(elsewhere, lock(9, 124))] == [9]


def test_open_is_only_what_is_so_beyond_doubt(proc, tmp_path) -> None:
    """Whoever is connected counts; none of another device's file with this number."""
    program = lock(8, 128)
    assert proc(program) == [] and is_open(tmp_path / "x.db", tmp_path)
    for other in (
        "",
        lock(8, 128, device="08:03"),
        lock(8, 128, mode="WRITE"),
        lock(8, 124),
        "1: FLOCK  ADVISORY  READ  8 08:02:4711 0 EOF",
        "1: OFDLCK ADVISORY  READ  -1 08:02:4711 128 128",
    ):
        proc(other)
        assert not is_open(tmp_path / "x.db", tmp_path), other
    assert not is_open(tmp_path / "absent.db", tmp_path)


def test_a_name_is_made_visible_and_may_be_unknown(proc) -> None:
    holders = proc(lock(8, 124), lock(9, 124), names={8: "\x1b[31mred"})
    assert [holder.name for holder in holders] == ["\\x1b[31mred", "a program"]


def test_a_process_that_shows_nothing_of_itself_is_another_program(proc, monkeypatch) -> None:
    """As with hidepid: of other users' processes there is no more than their locks."""

    def hidden(pid, proc):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sensor_node.storage.engine.holders.stat_fields", hidden)
    assert [holder.pid for holder in proc(lock(4242, 124))] == [4242]


def test_where_proc_tells_nothing_there_is_nobody(tmp_path) -> None:
    assert find(tmp_path / "x.db", 99, tmp_path) == []


@pytest.mark.parametrize(("statements", "writes"), [(READ, False), ("BEGIN IMMEDIATE", True)])
def test_a_real_program_is_found_for_as_long_as_its_transaction_lasts(
    repository, statements, writes
) -> None:
    fill(repository, 10)
    command = [sys.executable, "-c", PROGRAM, repository.path, statements]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    assert holders.find(repository.path, None) == []
    with subprocess.Popen(command, **pipes, text=True) as program:
        with contextlib.closing(program.stdin):
            assert program.stdout.readline() == "it has begun\n"
            [found] = holders.find(repository.path, None)
            assert (found.pid, found.writes) == (program.pid, writes)
            assert found.name.startswith("python")
            assert holders.find(repository.path, os.getpid()) == []
        program.wait(60)
    assert holders.find(repository.path, None) == []
