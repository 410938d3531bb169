"""P2, P3: deaths at moments when somebody else has to tell of them."""

import os
import signal
import time

from checker import judge, unaccounted_ticks
from crash import proc
from crash.node import assert_on_grid, running
from waiting import wait_until

RATE = 50


def test_a_run_whose_first_generator_died_before_it_could_begin_still_tells_of_the_gap(tmp_path):
    with running(tmp_path, sensor={"rate": RATE}) as (node, sink):
        node.await_captured(RATE)
        node.kill_all()
        last_us = node.times_us()[-1]
        with node.locked(), node.background("start"):
            generator = node.await_running("generator")
            wait_until(lambda: node.queues(generator), what="it waits to begin the run")
            node.kill("generator")
        node.await_running("generator", instead_of=generator)
        node.await_captured(node.captured() + RATE)
        node.stop()
        kinds = [event["kind"] for event in node.history()]
        assert kinds.count("started") == 2
        assert kinds.count("unclean stop") == 1
        gap = "SELECT first, last FROM event WHERE kind = 'not running'"
        ((first_us, end_us),) = node.rows(gap)
        assert first_us == last_us
        silent = (end_us - first_us) / 1e6 * RATE
        assert abs(unaccounted_ticks(node.database, {"temperature": RATE}) - silent) <= 3
        judge(node.database, sink.database).assert_good()


def test_a_generator_that_wakes_up_an_orphan_still_takes_the_ticks_that_are_due(tmp_path):
    with running(tmp_path, sensor={"rate": RATE}) as (node, sink):
        node.await_captured(RATE)
        pids = node.pids()
        node.stop_idle("generator")
        before = node.captured()
        node.kill("supervisor")
        since = time.monotonic()
        wait_until(lambda: time.monotonic() > since + 2, what="it has missed some ticks")
        os.kill(pids["generator"], signal.SIGCONT)
        wait_until(lambda: not node.processes(), what="the children have ended")
        assert node.captured() >= before + 2 * RATE
        node.start()
        node.await_captured(node.captured() + RATE)
        node.stop()
        assert_on_grid(node.times_us()[: before + 2 * RATE], RATE)
        judge(node.database, sink.database).assert_good()


def test_a_reload_whose_supervisor_is_killed_says_so(tmp_path):
    with running(tmp_path) as (node, _):
        supervisor = node.pids()["supervisor"]
        proc.send(supervisor, signal.SIGSTOP)
        wait_until(lambda: proc.state(supervisor) == "T", what="the supervisor is stopped")
        with node.background("reload") as reloading:
            wait_until(
                lambda: int(signal.SIGHUP) in proc.pending(supervisor), what="it is told to reload"
            )
            proc.send(supervisor, signal.SIGKILL)
            said, _ = reloading.communicate(timeout=60)
        assert reloading.returncode == 1
        assert said.startswith("sensor-node-ctl: it ended meanwhile")
