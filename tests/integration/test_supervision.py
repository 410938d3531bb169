"""The supervisor: brings the dead back, ends everything in order, and is alone on its database."""

import contextlib
import os
import signal
import socket
import time

import pytest
from crash import proc
from crash.node import Node, assert_nothing_lost, await_hanging, running
from sinks import SinkProcess, hang, ok
from waiting import wait_until

WORKERS = ("generator", "sender-1", "retrier", "housekeeper")


def test_whatever_dies_is_back_soon_and_history_says_how_it_died(tmp_path):
    with running(tmp_path, process={"senders": 1}) as (node, sink):
        before = node.pids()
        for name in WORKERS:
            proc.send(before[name], signal.SIGKILL)
        for name in WORKERS:
            node.await_running(name, instead_of=before[name])
        assert node.pids()["supervisor"] == before["supervisor"]
        processes = node.status()["processes"]
        assert {one["name"]: one["restarts"] for one in processes} == dict.fromkeys(WORKERS, 1)
        assert_nothing_lost(node, sink)
        deaths = {event["detail"] for event in node.events("process died")}
        assert deaths == {f"{name} was killed by SIGKILL" for name in WORKERS}


def test_stop_ends_capture_first_and_lets_the_request_in_hand_finish(tmp_path):
    options = {"senders": 1, "stop_timeout": "60s"}
    with running(tmp_path, process=options) as (node, sink):
        node.await_delivered(5)
        sink.behave(hang(store="before"))
        await_hanging(sink)
        pids = node.pids()
        with node.background("stop") as stopping:
            wait_until(lambda: not proc.is_alive(pids["generator"]), what="capture has ended")
            later = ("sender-1", "housekeeper", "supervisor")
            assert all(proc.is_alive(pids[name]) for name in later)
            sink.behave(ok())
            sink.release()
            said, _ = stopping.communicate(timeout=60)
        assert (stopping.returncode, said[:7]) == (0, "stopped")
        assert node.processes() == []
        assert node.run("status", status=3).stdout
        assert node.one("SELECT count(*) FROM batch WHERE status = 'SENDING'") == 0
        assert node.wire_ids("status = 'SENT'") == sink.stored_ids()
        assert sink.repeated_ids() == set()
        assert node.history()[-1]["kind"] == "stopped"
        assert node.run("audit").returncode == 0
        assert node.run("stop").stdout == "not running\n"


@pytest.mark.parametrize("by", ["stop", "SIGTERM"])
def test_a_start_during_a_slow_stop_starts_it_afterwards(tmp_path, by):
    with running(tmp_path, process={"senders": 1, "stop_timeout": "60s"}) as (node, sink):
        sink.behave(hang(store="before"))
        await_hanging(sink)
        pids = node.pids()
        with contextlib.ExitStack() as commands:
            if by == "stop":
                commands.enter_context(node.background("stop"))
            else:
                os.kill(pids["supervisor"], signal.SIGTERM)
            wait_until(lambda: not proc.is_alive(pids["generator"]), what="it is stopping")
            starting = commands.enter_context(node.background("start"))
            time.sleep(0.5)
            assert starting.poll() is None
            sink.behave(ok())
            sink.release()
            said, _ = starting.communicate(timeout=60)
            assert (starting.returncode, said[:7]) == (0, "started")
        assert node.status()["state"] == "running"
        assert_nothing_lost(node, sink)


def test_of_many_starts_one_starts_it_and_all_say_that_it_runs(tmp_path):
    with Node(tmp_path / "node") as node, contextlib.ExitStack() as commands:
        starts = [commands.enter_context(node.background("start")) for _ in range(6)]
        said = [start.communicate(timeout=60)[0] for start in starts]
        assert [start.returncode for start in starts] == [0] * 6, said
        pid = node.pids()["supervisor"]
        started = f"started (pid {pid}); see: sensor-node-ctl status\n"
        assert sorted(said) == [*[f"already running (pid {pid})\n"] * 5, started]


def test_a_start_beside_a_run_says_that_it_runs(tmp_path):
    with Node(tmp_path / "node") as node, node.background("run") as supervisor:
        said = [node.run("start").stdout for _ in range(3)]
        assert said == [f"already running (pid {supervisor.pid})\n"] * 3
        os.kill(supervisor.pid, signal.SIGTERM)
        assert supervisor.wait(60) == 0


def test_a_start_says_that_the_database_cannot_be_used(tmp_path):
    with Node(tmp_path / "node") as node:
        # The first damaged one is moved aside; the second waits for its time.
        for _ in range(2):
            node.start()
            node.await_captured(1)
            node.stop()
            node.database.write_bytes(b"no database" * 1000)
        done = node.run("start")
        assert done.stdout.startswith("started (pid ")
        assert (
            "but the database cannot be used: damaged; see: sensor-node-ctl status" in done.stderr
        )
        assert done.stderr.count("\n") == 1


def test_another_configuration_beside_it_is_told_what_runs(tmp_path):
    with running(tmp_path) as (node, sink):
        other = node.file.with_name("other.ini")
        other.write_text(node.file.read_text())
        for command in ("start", "reload"):
            said = node.run("-c", str(other), command, status=1).stderr
            assert f"goes by {node.file}" in said
        node.run("reload")
        assert_nothing_lost(node, sink)


def test_stop_kills_what_does_not_end_in_time_and_says_what_is_left(tmp_path):
    with running(tmp_path, process={"senders": 1, "stop_timeout": "1s"}) as (node, sink):
        node.may_die = {"sender-1"}
        sink.behave(hang(store="no"))
        await_hanging(sink)
        started = time.monotonic()
        said = node.stop()
        assert time.monotonic() - started < 10
        assert node.processes() == []
        assert f"{node.captured() - sink.count()} readings are buffered" in said
        assert "process_killed name=sender-1 it did not stop in time" in node.log()
        sink.behave(ok())
        node.start()
        assert_nothing_lost(node, sink)


def test_a_second_appliance_on_the_same_database_is_refused_and_told_the_pid(tmp_path):
    with running(tmp_path) as (node, sink), Node(tmp_path / "second") as second:
        second.configure(storage={"path": node.database})
        pids = node.pids()
        for command in ("run", "start"):
            said = second.run(command, status=1).stderr
            assert f"in use by the appliance with pid {pids['supervisor']}" in said
        assert node.run("start").stdout == f"already running (pid {pids['supervisor']})\n"
        assert node.pids() == pids
        assert second.processes() == []
        assert_nothing_lost(node, sink)


def test_a_start_that_waits_for_the_database_is_given_more_time(tmp_path):
    with (
        Node(tmp_path / "node", log={"level": "info"}) as node,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        node.start()
        node.stop()
        with contextlib.ExitStack() as migration:
            migration.enter_context(node.locked())
            notify = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
            with node.background("run", **notify) as supervisor:
                said = systemd.recv(4096).decode()
                assert said.startswith("EXTEND_TIMEOUT_USEC=")
                assert "waiting for the database" in said
                migration.close()
                while "READY=1" not in said:
                    said = systemd.recv(4096).decode()
                os.kill(supervisor.pid, signal.SIGTERM)
                assert supervisor.wait(60) == 0


def test_systemd_is_told_of_readiness_reloading_and_stopping(tmp_path):
    with (
        SinkProcess(tmp_path) as sink,
        Node(tmp_path / "node", sink={"url": sink.url}, log={"level": "info"}) as node,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)

        def told(line: str) -> list[str]:
            """The message with that line, the next that is not about feeding the watchdog."""
            while line not in (lines := systemd.recv(4096).decode().split("\n")):
                assert lines == ["WATCHDOG=1"], lines
            return lines

        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1500000"}
        with node.background("run", **environment) as supervisor:
            assert f"MAINPID={supervisor.pid}" in told("READY=1")
            assert told("WATCHDOG=1")
            assert node.status()["state"] == "running"
            before = time.monotonic_ns() // 1000
            os.kill(supervisor.pid, signal.SIGHUP)
            (moment,) = (line for line in told("RELOADING=1") if line.startswith("MONOTONIC_USEC="))
            assert before <= int(moment.partition("=")[2]) <= time.monotonic_ns() // 1000
            told("READY=1")
            os.kill(supervisor.pid, signal.SIGTERM)
            told("STOPPING=1")
            assert supervisor.wait(60) == 0
        assert node.processes() == []
