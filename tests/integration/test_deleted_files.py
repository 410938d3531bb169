"""However its files are deleted or moved, a running node is found, stopped, and the only one."""

import os

import pytest
from crash import proc
from crash.node import Node, assert_nothing_lost, assert_on_grid, running
from waiting import wait_until

from sensor_node.supervision.pidfile import pid_file


def supervisor_of(node: Node) -> int:
    return node.pids()["supervisor"]


def has_database(node: Node) -> bool:
    return node.database.exists() and not node.status()["database_error"]


def test_a_pid_file_that_is_deleted_or_emptied_comes_back(tmp_path):
    with running(tmp_path) as (node, _):
        pid, file = supervisor_of(node), pid_file(node.state)
        for spoil in (file.unlink, lambda: os.truncate(file, 0)):
            spoil()
            wait_until(lambda: file.exists() and file.stat().st_size, what="it is back")
            assert node.run("start").stdout == f"already running (pid {pid})\n"
        (node.state / "processes.json").unlink()
        file.unlink()
        wait_until((node.state / "processes.json").exists, what="the report is back")
        node.stop()
        assert node.processes() == []
        assert not file.exists()


def test_a_database_that_is_deleted_with_its_locks_is_followed_by_a_fresh_one(tmp_path):
    with running(tmp_path, sensor={"rate": 50}) as (node, sink):
        node.await_delivered(20)
        pid, before = supervisor_of(node), node.pids()
        for file in node.state.glob("telemetry.db*"):
            file.unlink()
        wait_until(lambda: set(node.pids().values()) & set(before.values()) == {pid}, 60, "new")
        wait_until(lambda: has_database(node), 60, "there is a fresh database")
        node.await_delivered(20)
        assert node.run("start").stdout == f"already running (pid {pid})\n"
        assert "lock_gone" in node.log()
        assert node.events("lock gone")
        assert "Traceback" not in node.log()
        node.run("reload")
        node.await_delivered()
        node.stop()
        assert node.processes() == []
        assert node.run("audit").returncode == 0
        assert sink.differing_ids() == set()


def test_a_node_whose_directory_was_moved_away_leaves_the_place_to_the_next_one(tmp_path):
    with running(tmp_path, sensor={"rate": 50}) as (node, _):
        node.await_delivered(20)
        old, moved = node.pids(), tmp_path / "moved"
        node.state.rename(moved)
        pid = node.start()
        wait_until(lambda: not any(proc.is_alive(one) for one in old.values()), 60, "it ends")
        assert "place_taken" in (moved / "sensor-node.log").read_text()
        assert supervisor_of(node) == pid
        node.await_captured(50)
        # One grid, not two.
        times = node.times_us()
        assert_on_grid(times, 50)
        node.stop()
        assert node.processes() == []
        assert node.run("audit").returncode == 0


def test_a_node_whose_directory_comes_back_goes_on(tmp_path):
    with running(tmp_path, sensor={"rate": 50}) as (node, _):
        node.await_delivered(20)
        pids, moved = node.pids(), tmp_path / "moved"
        node.state.rename(moved)
        assert node.run("status", status=3).stdout
        moved.rename(node.state)
        node.await_delivered(node.captured() + 50)
        assert node.pids() == pids
        assert node.dropped() == 0


def test_another_path_of_the_database_takes_a_restart(tmp_path):
    with running(tmp_path) as (node, _):
        node.await_delivered(5)
        old, pid = node.database, supervisor_of(node)
        node.configure(storage={"path": node.state / "new.db"})
        assert any("sensor-node-ctl restart" in note for note in node.status()["notes"])
        assert "sensor-node-ctl restart" in node.run("reload", status=1).stderr
        assert supervisor_of(node) == pid
        node.run("restart")
        assert supervisor_of(node) != pid
        assert not proc.is_alive(pid)
        node.await_delivered(5)
        node.stop()
        assert node.processes() == []
        assert old.exists()


def test_a_database_that_is_deleted_is_in_the_history_of_the_next_one(tmp_path):
    with running(tmp_path, sensor={"rate": 50}) as (node, _):
        node.await_delivered(20)
        pids = node.pids()
        for end in ("", "-wal", "-shm"):
            node.database.with_name(node.database.name + end).unlink()
        wait_until(lambda: has_database(node), 60, "there is a fresh database")
        node.await_delivered(20)
        assert [event["detail"] for event in node.events("database gone")] == [
            "it was deleted or moved while the node ran, with what it had to send"
        ]
        assert node.dropped() == 0
        assert node.pids() == pids


@pytest.mark.parametrize("how", ["deleted", "renamed"])
def test_a_log_file_that_somebody_takes_away_is_made_anew(tmp_path, how):
    with running(tmp_path, log={"level": "debug"}) as (node, sink):
        node.await_delivered(5)
        log = node.state / "sensor-node.log"
        if how == "deleted":
            log.unlink()
        else:
            log.rename(log.with_name("sensor-node.log.yesterday"))
        wait_until(log.exists, what="there is another one")
        senders = {str(node.pids()[name]) for name in ("sender-1", "sender-2")}
        wait_until(
            lambda: any(line.split()[3] in senders for line in node.log().splitlines()),
            what="children write to it too",
        )
        assert_nothing_lost(node, sink)
