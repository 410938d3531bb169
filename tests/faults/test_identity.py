"""Ids stay unique when a database is copied, restored from a backup, or cut short."""

import contextlib
import os
import shutil
import sqlite3

from checker import judge
from crash.node import Node
from sinks import SinkProcess, answer, ok

STREAMS = "SELECT name FROM stream ORDER BY first_id"


def names(node: Node) -> list[str]:
    return [row[0] for row in node.rows(STREAMS)]


def delivered(node: Node) -> int:
    return int(node.one("SELECT count(*) FROM message WHERE status = 'SENT'"))


def with_backlog(node: Node, sink: SinkProcess) -> None:
    """Some readings are delivered, some wait."""
    node.start()
    node.await_delivered(50)
    sink.behave(answer(503))
    node.await_captured(node.captured() + 100)


def test_a_copied_state_directory_gives_new_readings_ids_of_their_own(tmp_path):
    """Both on one machine, with one machine id, as with containers and golden images."""
    with (
        SinkProcess(tmp_path) as sink,
        Node(tmp_path / "one", sensor={"rate": 100}, sink={"url": sink.url}) as one,
        Node(tmp_path / "two", sensor={"rate": 100}, sink={"url": sink.url}) as two,
    ):
        with_backlog(one, sink)
        one.stop()
        [stream], copied = names(one), one.captured()
        assert copied - delivered(one) >= 100
        shutil.copytree(one.state, two.state)
        one.start()
        two.start()
        sink.behave(ok())
        for node in (one, two):
            node.await_captured(copied + 200)
        for node in (one, two):
            node.await_delivered()
            node.stop()
            assert node.run("audit").returncode == 0
        assert names(one)[0] == names(two)[0] == stream
        assert len({*names(one), *names(two)}) == 3
        # Of each other the nodes know nothing; the backlog has reached the sink from both.
        judge(one.database, sink.database, earlier=frozenset(names(two)[1:])).assert_good()
        judge(two.database, sink.database, earlier=frozenset(names(one)[1:])).assert_good()
        assert sink.differing_ids() == set()
        assert not any(sink.missing_within().values())
        assert sink.count() == delivered(one) + delivered(two) - copied


def test_after_a_restored_backup_no_reading_has_an_id_that_the_sink_knows(tmp_path):
    """Without a command: nothing tells the node that it was put back."""
    with (
        SinkProcess(tmp_path) as sink,
        Node(tmp_path / "node", sensor={"rate": 100}, sink={"url": sink.url}) as node,
    ):
        with_backlog(node, sink)
        backup = tmp_path / "backup.db"
        with (
            contextlib.closing(sqlite3.connect(node.database)) as live,
            contextlib.closing(sqlite3.connect(backup)) as copy,
        ):
            live.backup(copy)
        [stream], taken = names(node), node.captured()
        sink.behave(ok())
        node.await_captured(taken + 200)
        node.await_delivered()
        node.stop()
        before, known = delivered(node), sink.stored_ids()
        for file in node.state.glob("telemetry.db*"):
            file.unlink()
        shutil.copy(backup, node.database)
        node.start()
        restored = node.one("SELECT max(first_id) - 1 FROM stream")
        node.await_captured(restored + 100)
        node.await_delivered()
        node.stop()
        assert node.run("audit").returncode == 0
        assert names(node)[0] == stream
        assert len(names(node)) == 2
        verdict = judge(node.database, sink.database, earlier=frozenset([stream]))
        verdict.assert_good()
        # What was sent once more after the backup was taken has kept its ids.
        assert sink.differing_ids() == set()
        assert sink.missing_numbers() == []
        assert sink.count() == before + delivered(node) - restored
        assert {one for one in sink.stored_ids() if stream in one} == known


def test_after_its_log_was_cut_short_no_reading_has_an_id_that_the_sink_knows(tmp_path):
    """Half of the WAL is gone after a crash; what was in it has been delivered."""
    with (
        SinkProcess(tmp_path) as sink,
        Node(tmp_path / "node", sensor={"rate": 100}, sink={"url": sink.url}) as node,
    ):
        node.start()
        node.await_captured(200)
        node.await_delivered()
        node.kill_all()
        wal = node.database.with_name(node.database.name + "-wal")
        os.truncate(wal, wal.stat().st_size // 2)
        known = sink.stored_ids()
        [stream] = {one.rpartition("-")[0] for one in known}
        node.start()
        node.await_captured(node.captured() + 200)
        node.await_delivered()
        node.stop()
        assert node.run("audit").returncode == 0
        judge(node.database, sink.database, earlier=frozenset([stream])).assert_good()
        assert sink.differing_ids() == set()
        assert sink.missing_numbers() == []
        assert {one for one in sink.stored_ids() if stream in one} >= known
