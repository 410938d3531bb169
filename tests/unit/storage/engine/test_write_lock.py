"""One writer at a time, and whoever waits gets its turn."""

import contextlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from sensor_node.storage.engine.write_lock import Unwatched, WriteLock

# Adds its letter to a file for each turn, after a look that nobody else is in the room.
WORKER = """
import sys
from pathlib import Path
from sensor_node.storage.engine.write_lock import Unwatched, WriteLock

database, letter, turns = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
room, log = database.with_name("room"), database.with_name("log")
lock = WriteLock(database, Unwatched())
print("ready", flush=True)
sys.stdin.readline()
for _ in range(turns):
    with lock:
        room.mkdir()  # fails if another is in the room
        with log.open("a") as file:
            file.write(letter)
        room.rmdir()
lock.close()
"""


def owners(monkeypatch):
    """Whom the files that are made now are given to."""
    given = []
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.fchown", lambda descriptor, *owner: given.append(owner))
    return given


class Watch:
    def __init__(self):
        self.seen = []

    def waiting(self):
        self.seen.append("waiting")

    def holding(self):
        self.seen.append("holding")

    def released(self):
        self.seen.append("released")


@pytest.fixture
def database(place):
    return place / "telemetry.db"


@contextlib.contextmanager
def worker(database, letter, turns):
    """A process of its own, ready to begin."""
    command = [sys.executable, "-c", WORKER, str(database), letter, str(turns)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
            process.communicate(timeout=30)
            assert process.returncode == 0
        finally:
            process.kill()


def go(*processes):
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def is_queued(process, database):
    """Whether the process waits for one of the locks, by /proc/locks."""
    inodes = {str(file.stat().st_ino) for file in database.parent.glob("telemetry.db.*")}
    for line in Path("/proc/locks").read_text().splitlines():
        _, *fields = line.split()
        if fields[0] == "->" and int(fields[4]) == process.pid:
            return fields[5].rpartition(":")[2] in inodes
    return False


def test_two_processes_are_never_in_the_room_together(database):
    with worker(database, "a", 300) as a, worker(database, "b", 300) as b:
        go(a, b)
    log = database.with_name("log").read_text()
    assert (log.count("a"), log.count("b")) == (300, 300)


def test_a_holder_keeps_another_process_out(database):
    lock = WriteLock(database, Unwatched())
    log = database.with_name("log")
    with worker(database, "a", 1) as a, lock:
        go(a)
        wait_until(lambda: is_queued(a, database), what="a waits for the lock")
        assert not log.exists()
    assert log.read_text() == "a"
    lock.close()


def test_a_process_that_takes_the_lock_again_at_once_goes_behind_those_who_wait(database):
    """Without the turnstile the holder gets it again and again, and the others starve."""
    lock = WriteLock(database, Unwatched())
    log = database.with_name("log")
    with worker(database, "a", 1) as a:
        with lock:
            go(a)
            wait_until(lambda: is_queued(a, database), what="a waits for the lock")
        with lock:
            assert log.read_text() == "a"
    lock.close()


def test_a_killed_holder_leaves_the_lock_free(database):
    with worker(database, "a", 1) as a:
        lock = WriteLock(database, Unwatched())
        with lock:
            go(a)
            wait_until(lambda: is_queued(a, database), what="a waits for the lock")
            a.kill()
            a.wait()
            a.returncode = 0
        with lock:
            pass
        lock.close()


def test_the_watch_is_told_of_waiting_holding_and_release(database):
    watch = Watch()
    lock = WriteLock(database, watch)
    with lock:
        assert watch.seen == ["waiting", "holding"]
    assert watch.seen == ["waiting", "holding", "released"]
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    assert watch.seen[3:] == ["waiting", "holding", "released"]
    lock.close()


def test_the_lock_files_carry_no_data_and_stay(database):
    lock = WriteLock(database, Unwatched())
    with lock:
        pass
    lock.close()
    files = {file.name: file.stat().st_size for file in database.parent.iterdir()}
    assert files == {"telemetry.db.turnstile": 0, "telemetry.db.writer": 0}


def test_children_of_other_programs_do_not_inherit_the_lock(database):
    lock = WriteLock(database, Unwatched())
    assert not any(os.get_inheritable(fd) for fd in (lock._turnstile, lock._writer))
    lock.close()


@pytest.mark.parametrize("blocked", ["telemetry.db.turnstile", "telemetry.db.writer"])
def test_a_lock_that_cannot_be_opened_leaves_no_descriptor_behind(database, blocked):
    (database.parent / blocked).mkdir()
    before = sorted(Path("/proc/self/fd").iterdir())
    for _ in itertools.repeat(None, 3):
        with pytest.raises(OSError, match="Is a directory"):
            WriteLock(database, Unwatched())
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_closing_the_lock_twice_leaves_the_files_of_others_open(database):
    lock = WriteLock(database, Unwatched())
    lock.close()
    with contextlib.ExitStack() as stack:
        # They get the numbers that the lock has given back.
        others = [stack.enter_context(database.with_name(f"other{n}").open("w")) for n in range(2)]
        lock.close()
        for other in others:
            os.fstat(other.fileno())


def test_files_that_root_makes_are_its_whose_the_database_is(database, monkeypatch) -> None:
    given = owners(monkeypatch)
    database.touch()
    owner = (database.stat().st_uid, database.stat().st_gid)
    WriteLock(database, Unwatched()).close()
    assert given == [owner, owner]
    WriteLock(database, Unwatched()).close()
    assert given == [owner, owner], "files that are there stay whose they are"


def test_a_link_in_the_place_of_a_lock_file_is_not_followed(database, tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    database.with_name("telemetry.db.writer").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic link"):
        WriteLock(database, Unwatched())
