"""What an old or damaged database has not delivered comes back, each reading once."""

import contextlib
import os
import re
import signal
import sqlite3
from pathlib import Path

import pytest
from checker import judge
from crash.node import Node, await_hanging
from sinks import SinkProcess, hang, ok
from waiting import wait_until

STREAM = "SELECT name FROM stream WHERE first_id = 1"
SAID = re.compile(r"brought back (\d+) readings from .*; found (\d+): (\d+) .*, (\d+) unreadable")
NOWHERE = {"url": "http://127.0.0.1:9/telemetry"}
PAGE = 1024
KILLS = 3
LEAF = 0x0D


def move_aside(node: Node) -> Path:
    """As it is done with a damaged database: with its WAL, under another name."""
    aside = node.state / "telemetry.db.damaged-20261123T074438Z"
    for suffix in ("", "-wal"):
        file = node.state / f"telemetry.db{suffix}"
        if file.exists():
            file.rename(f"{aside}{suffix}")
    node.shm.unlink(missing_ok=True)
    return aside


def damage(database: Path, share: float) -> None:
    """Overwrite the first page, and one of readings, so far into the file."""
    content = bytearray(database.read_bytes())
    leaves = [
        place
        for place in range(PAGE, len(content), PAGE)
        if content[place] == LEAF and b"temperature" in content[place : place + PAGE]
    ]
    place = leaves[int(len(leaves) * share)]
    content[place : place + PAGE] = content[:PAGE] = b"\xff" * PAGE
    database.write_bytes(content)


def said(node: Node, file: Path) -> tuple[int, int, int, int]:
    """Brought back, found, delivered, unreadable."""
    text = node.run("salvage", str(file)).stdout
    found = SAID.match(text)
    assert found, text
    return int(found[1]), int(found[2]), int(found[3]), int(found[4])


@pytest.mark.parametrize("fault", ["damaged, then salvaged under way", "killed, then salvaged"])
def test_undelivered_readings_of_an_old_database_reach_the_sink_with_their_ids(tmp_path, fault):
    with (
        SinkProcess(tmp_path) as sink,
        Node(tmp_path / "node", sensor={"rate": 500}, sink={"url": sink.url}) as node,
    ):
        node.start()
        node.await_delivered(200)
        sink.script(hang(store="before"), hang(store="no"))  # the fate of two batches is unknown
        await_hanging(sink, 2)
        node.await_captured(node.captured() + 600)
        node.kill_all()
        before = {row[0]: row[1:] for row in node.rows("SELECT id, value FROM message")}
        old = node.one(STREAM)
        if under_way := fault.startswith("damaged"):
            with contextlib.closing(sqlite3.connect(node.database)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            damage(node.database, 0.95)
            node.start()  # it finds the damage, and moves the file aside
            [aside] = node.state.glob("*.damaged-*Z")
        else:
            aside = move_aside(node)
            node.start()
            node.stop()
        whole = {file: file.read_bytes() for file in node.state.glob("*.damaged-*")}
        brought, found, delivered, unreadable = said(node, aside)
        assert found + unreadable == len(before)
        assert (5 < unreadable < 60) if under_way else unreadable == 0
        assert brought == found - delivered >= 600 - unreadable
        assert node.run("salvage", str(aside)).stdout.startswith("nothing to bring back")
        assert {file: file.read_bytes() for file in node.state.glob("*.damaged-*")} == whole
        if not under_way:
            node.start()
        sink.release()
        node.await_captured(brought + 500)  # it goes on in its own stream
        node.await_delivered()
        node.stop()
        assert node.run("audit").returncode == 0
        verdict = judge(node.database, sink.database, earlier=frozenset({old}))
        verdict.assert_good()
        assert verdict.captured - verdict.stored <= delivered
        # What the sink had of the fate unknown it has once more, under the same id.
        numbers = {int(one.rpartition("-")[2]) for one in sink.stored_ids() if old in one}
        assert len(numbers) == found
        assert len(sink.missing_within()[old]) <= unreadable
        assert not any(sink.missing_within()[own] for own in sink.missing_within() if own != old)
        assert sink.differing_ids() == set()
        stored = {
            int(one.id.rpartition("-")[2]): one.value for one in sink.messages() if old in one.id
        }
        assert all(before[number] == (value,) for number, value in stored.items())
        assert [event["n"] for event in node.events("salvaged")] == [brought]
        assert [event["detail"] for event in node.events("salvaged")] == [aside.name]


def test_nothing_may_be_sent_twice_so_what_comes_back_is_in_doubt(tmp_path):
    once = {"delivery": "at-most-once"}
    with (
        SinkProcess(tmp_path) as sink,
        Node(tmp_path / "node", sensor={"rate": 100}, sink={"url": sink.url, **once}) as node,
    ):
        node.start()
        node.await_delivered(20)
        sink.behave(hang(store="before"))
        await_hanging(sink, 2)
        node.await_captured(node.captured() + 100)
        node.kill_all()
        old = node.one(STREAM)
        aside = move_aside(node)
        sink.restart()
        sink.behave(ok())
        node.start()
        brought, _, _, _ = said(node, aside)
        count = "SELECT count(*) FROM message WHERE status = 'IN_DOUBT'"
        assert node.one(count) == brought
        node.await_captured(brought + 50)
        delivered = "SELECT count(*) FROM message WHERE status = 'SENT'"
        wait_until(lambda: node.one(delivered) > 50, what="later readings are delivered")
        node.stop()
        assert sink.repeated_ids() == set()
        verdict = judge(node.database, sink.database, earlier=frozenset({old}))
        verdict.assert_good()
        assert verdict.in_doubt == brought


def test_a_salvage_that_is_killed_again_and_again_brings_everything_back_once(tmp_path):
    old = Node(tmp_path / "old", sensor={"rate": 40000}, sink=NOWHERE)
    with (
        SinkProcess(tmp_path) as sink,
        Node(tmp_path / "new", sink={"url": sink.url, "batch_size": 2000}) as node,
        old,
    ):
        old.start()
        old.await_captured(20_000)
        old.stop()
        count = old.captured()
        node.start()
        salvaged = "SELECT coalesce(sum(n), 0) FROM event WHERE kind = 'salvaged'"
        for _ in range(KILLS):
            before = node.one(salvaged)
            with node.background("salvage", str(old.database)) as process:
                wait_until(lambda n=before: node.one(salvaged) > n, what="some are brought back")
                os.killpg(process.pid, signal.SIGKILL)
            assert process.returncode == -signal.SIGKILL
        assert 0 < node.one(salvaged) < count
        node.run("salvage", str(old.database))
        assert node.one(salvaged) == count
        assert "nothing to bring back" in node.run("salvage", str(old.database)).stdout
        node.await_delivered()
        node.stop()
        assert node.run("audit").returncode == 0
        judge(node.database, sink.database).assert_good()
        stream = old.one(STREAM)
        assert sum(one.startswith(stream) for one in sink.stored_ids()) == count
        assert not any(sink.missing_within().values())


def test_salvage_leaves_room_and_goes_on_where_it_stopped(tmp_path):
    old = Node(tmp_path / "old", sensor={"rate": 40000}, sink=NOWHERE)
    storage = {"max_size": "4MiB", "keep_sent": "0s"}
    with (
        SinkProcess(tmp_path) as sink,
        Node(tmp_path / "new", storage=storage, sink={"url": sink.url, "batch_size": 2000}) as node,
        old,
    ):
        old.start()
        old.await_captured(120_000)  # more than fits into 4 MiB
        old.stop()
        count = old.captured()
        node.start()
        sink.behave(hang(store="no"))
        full = node.run("salvage", str(old.database), status=1)
        assert "has no room for the rest" in full.stderr
        assert full.stderr.count("\n") == 1
        assert node.status()["counts"]["evicted"] == 0
        sink.behave(ok())
        sink.release()
        wait_until(
            lambda: node.run("salvage", str(old.database), status=None).returncode == 0,
            deadline=90,
            what="all is brought back",
        )
        stream = old.one(STREAM)

        def delivered() -> bool:
            return len([one for one in sink.stored_ids() if stream in one]) == count

        wait_until(delivered, deadline=90, what="all is delivered", detail=sink.summary)
        node.stop()
        assert node.run("audit").returncode == 0
        verdict = judge(node.database, sink.database)
        verdict.assert_good()
        assert verdict.evicted == 0


def test_what_cannot_be_salvaged_is_told_in_one_line(tmp_path):
    with Node(tmp_path / "node", sink=NOWHERE) as node, Node(tmp_path / "b", sink=NOWHERE) as used:
        node.start()
        used.start()
        (tmp_path / "text").write_text("no database\n" * 100)
        for name, made in (
            ("others.db", "CREATE TABLE x(y)"),
            ("newer.db", "PRAGMA application_id = 1399746372; PRAGMA user_version = 99"),
        ):
            with contextlib.closing(sqlite3.connect(tmp_path / name)) as connection:
                connection.executescript(made)
        for file, told in (
            (tmp_path / "absent", "no such file"),
            (tmp_path, "is no file"),
            (tmp_path / "text", "not a database"),
            (tmp_path / "others.db", "not a Sensor Node database"),
            (tmp_path / "newer.db", "has schema 99"),
            (node.database, "is the database in use"),
            (used.database, "uses it; stop that node first"),
        ):
            done = node.run("salvage", str(file), status=1)
            assert told in done.stderr
            assert (done.stderr.count("\n"), done.stdout) == (1, "")


def test_of_two_salvages_at_once_one_is_told_of_the_other(tmp_path):
    with Node(tmp_path / "node", sensor={"rate": 20_000}, sink=NOWHERE) as node:
        node.start()
        node.await_captured(40_000)
        node.stop()
        captured = node.captured()
        aside = move_aside(node)
        node.start()
        node.await_captured(1)
        with contextlib.ExitStack() as commands:
            with node.locked():
                # Before the write lock, and behind it: none of them can be done already.
                both = [
                    commands.enter_context(node.background("salvage", str(aside))) for _ in range(2)
                ]
                wait_until(lambda: all(node.queues(one.pid) for one in both), what="both wait")
            told = [one.communicate(timeout=60)[0] for one in both]
        assert sorted(one.returncode for one in both) == [0, 1], told
        first = min(both, key=lambda one: one.returncode)
        (refused,) = [text for text in told if "brought back" not in text]
        assert f"another salvage (pid {first.pid}) is at work" in refused
        assert any(f"brought back {captured} readings" in text for text in told), told
        assert node.run("audit").returncode == 0
