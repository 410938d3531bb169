"""Ids stay unique when a database is copied to another machine, or taken from a backup."""

import contextlib
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from checker import judge
from crash.node import Node
from sinks import SinkProcess, answer, ok

MACHINE_ID = Path("/etc/machine-id")
STREAMS = "SELECT name FROM stream ORDER BY first_id"
ANOTHER = "0123456789abcdef0123456789abcdef\n"


class OtherMachine(Node):
    """A node that finds another machine id, in a mount namespace of its own."""

    def command(self, *arguments: str) -> list[str]:
        machine = self.file.with_name("machine-id")
        machine.write_text(ANOTHER)
        script = 'mount --bind "$0" /etc/machine-id && exec "$@"'
        inside = ["unshare", "--mount", "sh", "-c", script, str(machine)]
        return [*inside, *super().command(*arguments)]


def can_have_another_machine_id() -> bool:
    if not MACHINE_ID.exists() or not shutil.which("unshare"):
        return False
    command = ["unshare", "--mount", "mount", "--bind", "/dev/null", str(MACHINE_ID)]
    return subprocess.run(command, capture_output=True).returncode == 0


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


@pytest.mark.skipif(
    not can_have_another_machine_id(), reason="needs root, unshare(1) and /etc/machine-id"
)
def test_a_copied_disk_gives_new_readings_ids_of_their_own_and_keeps_those_of_the_backlog(tmp_path):
    with (
        SinkProcess(tmp_path) as sink,
        Node(tmp_path / "one", sensor={"rate": 100}, sink={"url": sink.url}) as one,
        OtherMachine(tmp_path / "two", sensor={"rate": 100}, sink={"url": sink.url}) as two,
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
        assert names(one) == [stream]
        assert len(names(two)) == 2
        assert names(two)[0] == stream
        assert "another machine" in two.events("new stream")[0]["detail"]
        # Of each other the nodes know nothing; the backlog has reached the sink from both.
        judge(one.database, sink.database, earlier=frozenset(names(two)[1:])).assert_good()
        judge(two.database, sink.database, earlier=frozenset([stream])).assert_good()
        assert sink.differing_ids() == set()
        assert not any(sink.missing_numbers().values())
        assert sink.count() == delivered(one) + delivered(two) - copied
        # It is the same machine from then on.
        two.start()
        two.stop()
        assert len(names(two)) == 2


def test_after_a_restored_backup_and_new_stream_no_reading_has_an_id_that_the_sink_knows(tmp_path):
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
        assert "readings from now on belong to stream" in node.run("new-stream").stdout
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
        assert not any(sink.missing_numbers().values())
        assert sink.count() == before + delivered(node) - restored
        assert {one for one in sink.stored_ids() if stream in one} == known
