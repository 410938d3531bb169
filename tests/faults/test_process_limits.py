"""P1, P2, P5: a process that may have no more files, or no more memory, than it has."""

import os
import resource
import signal
import subprocess
import sys

from checker import judge, unaccounted_ticks
from crash import proc
from crash.node import Node, assert_nothing_lost, assert_on_grid, running
from faults.disks import needs_strace
from waiting import wait_until

RATE = 20
FILES, MEMORY = resource.RLIMIT_NOFILE, resource.RLIMIT_DATA
# What starting a child takes for a moment: the ends of two pipes.
PIPES = 4
# A worker that has memory for all but one more call.
SCARCE = """
import os, resource, sys, time
from pathlib import Path
from sensor_node.config.loader import load_config
from sensor_node.supervision import worker
from sensor_node.supervision.roles import ROLES
from sensor_node.supervision.slots import make_slots

def call(depth):
    return call(depth - 1) if depth else None

def step(*_):
    sys.setrecursionlimit(100_000)
    [line] = [x for x in Path("/proc/self/status").open() if x.startswith("VmData:")]
    data = int(line.split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    kept = []
    for size in (100_000, 10_000, 500):
        try:
            while True:
                kept.append(bytearray(size))
        except MemoryError:
            pass
    call(50_000)

worker.run_service = step
worker.work(worker.ChildSpec(
    role=ROLES["housekeeper"], config=load_config(sys.argv[1]), slot=make_slots(1)[0],
    supervisor=os.getppid(), inherited=(), pending_events=(), run_started=time.monotonic(),
    unclean=False, after_death=False,
))
"""


def limit(pid: int, which: int, most: int) -> None:
    """As `prlimit` does; the hard limit stays, so that it can be raised again."""
    resource.prlimit(pid, which, (most, resource.prlimit(pid, which)[1]))


def lift(pid: int, which: int) -> None:
    hard = resource.prlimit(pid, which)[1]
    limit(pid, which, hard)


def allow_files(pid: int, more: int) -> None:
    """So many files may be opened beside those that are open now."""
    numbers = {int(name) for name in os.listdir(proc.PROC / str(pid) / "fd")}
    free = sorted(set(range(len(numbers) + more + 1)) - numbers)
    limit(pid, FILES, free[more])


def test_processes_that_reach_their_limit_of_open_files_say_so_and_recover(tmp_path):
    with running(tmp_path, sensor={"rate": RATE}) as (node, sink):
        node.await_delivered(10)
        pids = node.pids()
        network = [pids[name] for name in ("sender-1", "sender-2", "retrier")]
        for pid in network:
            allow_files(pid, 0)
        sink.restart()  # whoever had a connection needs a new one
        reason = "SELECT reason || '; ' || hint FROM sink WHERE state = 'DOWN'"
        wait_until(lambda: "too many open files" in str(node.rows(reason)), what="it says so")
        assert "LimitNOFILE" in node.one(reason)
        for pid in network:
            lift(pid, FILES)
        node.await_delivered()
        assert pids == node.pids()
        assert_nothing_lost(node, sink)
        assert_on_grid(node.times_us(), RATE)
        judge(node.database, sink.database).assert_good()


def test_a_supervisor_and_its_children_with_too_few_open_files_go_on_when_they_have_more(tmp_path):
    with running(tmp_path, sensor={"rate": RATE}) as (node, sink):
        node.await_delivered(10)
        supervisor = node.pids()["supervisor"]
        allow_files(supervisor, 0)
        sender = node.kill("sender-1")
        line = "process_not_started name=sender-1 [Errno 24] Too many open files"
        wait_until(lambda: line in node.log(), what="it says so", detail=node.log)
        # Now one can be started, but it can open no database.
        allow_files(supervisor, PIPES)
        node.await_running("sender-1", instead_of=sender)
        generator = node.kill("generator")
        wait_until(
            lambda: "storage_unavailable cannot be opened" in node.log(),
            deadline=90,
            what="a child finds no room for its files",
            detail=node.log,
        )
        for pid in node.processes():
            lift(pid, FILES)
        node.await_running("generator", instead_of=generator)
        node.await_captured(node.captured() + RATE)
        assert node.pids()["supervisor"] == supervisor
        assert "Traceback" not in node.log()
        assert_nothing_lost(node, sink)
        judge(node.database, sink.database).assert_good()
        assert abs(unaccounted_ticks(node.database, {"temperature": RATE})) <= 3
        assert node.one("SELECT count(*) FROM stream") == 2, "of the two processes that captured"


def test_a_sender_without_memory_dies_in_one_line_and_capture_misses_no_tick(tmp_path):
    rate = 3000
    settings = {"sink": {"batch_size": 8000}, "process": {"senders": 1}}
    with running(tmp_path, sensor={"rate": rate}, **settings) as (node, sink):
        node.await_delivered(10)
        sender = node.stop_idle("sender-1")
        node.await_captured(node.captured() + 10_000)
        limit(sender, MEMORY, proc.data_bytes(sender))
        os.kill(sender, signal.SIGCONT)
        wait_until(lambda: not proc.is_alive(sender), what="it has no memory for a whole batch")
        node.await_running("sender-1", instead_of=sender)
        assert "crashed role=sender MemoryError()" in node.log()
        assert "Traceback" not in node.log()
        times = node.times_us()
        assert abs((times[-1] - times[0]) / 1e6 * rate + 1 - len(times)) < 1
        assert node.dropped() == 0
        node.configure(sensor={"rate": 1})
        node.run("reload")
        assert_nothing_lost(node, sink)
        judge(node.database, sink.database).assert_good()


def test_no_memory_for_a_call_is_one_line_too(tmp_path):
    (tmp_path / "config.ini").write_text("[sensor:room]\n")
    worker = [sys.executable, "-c", SCARCE, str(tmp_path / "config.ini")]
    died = subprocess.run(worker, stderr=subprocess.PIPE, text=True, timeout=60)
    assert died.returncode == 1, died.stderr
    assert died.stderr.endswith("crashed role=housekeeper MemoryError()\n")
    assert "Traceback" not in died.stderr


@needs_strace
def test_a_kernel_without_pidfd_open_is_refused_in_one_line(tmp_path):
    without = "inject=pidfd_open:error=ENOSYS"
    strace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pidfd_open", "-e", without)
    with Node(tmp_path / "node", prefix=strace) as node:
        assert "has no pidfd_open" in node.run("start", status=78).stderr
        node.run("check")  # and run would do, where only the supervisor awaits its children
        node.configure(sensor={"source": "command", "command": "echo 1", "rate": 1})
        for command in ("check", "start", "run"):
            said = node.run(command, status=78).stderr
            assert "has no pidfd_open" in said
            assert "needs Linux 5.3 or newer" in said
            assert said.count("\n") == 1
        assert not node.state.exists()
