"""P1, P2: a process that is stopped in the very place where all others need it."""

import contextlib
import os
import re
import signal
import sqlite3

from checker import judge, unaccounted_ticks
from crash import proc
from crash.node import assert_nothing_lost, running
from sinks import answer, ok
from waiting import wait_until

RATE = 1000
ROLES = ("generator", "retrier", "housekeeper")
HUNG = "sh -c 'sleep 86399; :' {mark} & sh -c 'sleep 86398; :' {mark}"


@contextlib.contextmanager
def held_by_a_shell(database):
    """Another program is in a transaction."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None, timeout=30)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        yield
        shell.execute("ROLLBACK")


def test_any_role_that_is_stopped_with_the_write_lock_is_killed_and_capture_goes_on(tmp_path):
    """A sender: see tests/integration/test_isolation.py."""
    with contextlib.ExitStack() as stack:
        found = []
        for role in ROLES:
            batch = {"batch_size": 2000}
            (tmp_path / role).mkdir()
            with_sink = running(tmp_path / role, sensor={"rate": RATE}, sink=batch)
            node, sink = stack.enter_context(with_sink)
            if role == "retrier":
                sink.behave(answer(503))  # so that it has something to do
                down = "SELECT state = 'DOWN' FROM sink"
                wait_until(lambda node=node, down=down: node.one(down), what="the sink is DOWN")
            pid = node.await_running(role)
            with held_by_a_shell(node.database):
                # Whoever has the write lock now waits for the shell, for a quarter of a second.
                proc.stop_in_the_act(pid, lambda pid=pid, at=node.writer: pid in proc.holders(at))
            found.append((role, node, sink, pid, node.captured()))
        for role, node, sink, pid, captured in found:
            wait_until(lambda pid=pid: not proc.is_alive(pid), what=f"{role} is killed")
            # What is known to take long, a checkpoint, counts as on the way to the lock.
            kills = rf"process_killed name={role} it (holds the write lock|was stopped on its way)"
            assert len(re.findall(kills, node.log())) == 1, node.log()
            node.await_running(role, instead_of=pid)
            node.await_captured(captured + RATE)
            assert bool(node.dropped()) == (role == "generator")
            assert abs(unaccounted_ticks(node.database, {"temperature": RATE})) <= 3
            sink.behave(ok())
            node.configure(sensor={"rate": 1})
            node.run("reload")
            assert_nothing_lost(node, sink)
            judge(node.database, sink.database).assert_good()


def test_a_command_whose_generator_dies_ends_and_what_it_left_is_ended_by_the_next(tmp_path):
    mark = str(tmp_path / "mark")
    slow = {"source": "command", "rate": 1, "timeout": "1h", "command": HUNG.format(mark=mark)}
    with running(tmp_path, **{"sensor:slow": slow}) as (node, sink):
        wait_until(lambda: len(proc.with_argument(mark)) == 2, what="the command runs")
        left = set(proc.with_argument(mark))
        (leader,) = {proc.parent(pid) for pid in left}
        supervisor = node.pids()["supervisor"]
        proc.send(supervisor, signal.SIGSTOP)
        generator = node.kill("generator")
        wait_until(lambda: not proc.is_alive(leader), what="the command ends with its generator")
        assert left == set(proc.with_argument(mark))
        os.kill(supervisor, signal.SIGCONT)
        node.await_running("generator", instead_of=generator)
        wait_until(lambda: not left & set(proc.with_argument(mark)), what="the rest is ended too")
        wait_until(lambda: len(proc.with_argument(mark)) == 2, what="the command runs again")
        assert_nothing_lost(node, sink)
        assert proc.with_argument(mark) == []
        judge(node.database, sink.database).assert_good()


def test_a_supervisor_that_hangs_is_stopped_by_force_and_leaves_no_pid_file(tmp_path):
    with running(tmp_path, process={"stop_timeout": "1s"}) as (node, sink):
        node.await_delivered(5)
        proc.send(node.pids()["supervisor"], signal.SIGSTOP)
        told = node.run("stop").stdout
        assert told.startswith("stopped; ")
        assert told.endswith("what was in memory may be lost: it ended by force\n")
        wait_until(lambda: node.processes() == [], what="all are gone")
        node.run("status", status=3)
        node.start()
        assert [event["detail"] for event in node.events("unclean stop")]
        assert_nothing_lost(node, sink)
