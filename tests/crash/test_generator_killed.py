"""P2: whatever the generator has committed stays, wherever it is killed; the rest is counted."""

import os
import signal

from crash import proc
from crash.node import Node, assert_nothing_lost, running
from waiting import wait_until

# A replacement's first tick is rounded to the grid of the one before, at both ends of the gap.
TICKS_PER_KILL = 2
FIRST_ROWS = "SELECT id, name, value, timestamp_us FROM message WHERE id <= ? ORDER BY id"


def assert_every_tick_is_accounted_for(node: Node, kills: int) -> None:
    """rate × time = captured + dropped, from the first reading to the last."""
    times = node.times_us()
    ticks = (times[-1] - times[0]) / 1e6 * node.rate + 1
    accounted = len(times) + node.dropped()
    assert abs(ticks - accounted) <= TICKS_PER_KILL * kills + 1, (ticks, accounted)


def test_a_generator_killed_at_the_edge_of_its_transaction_loses_nothing_committed(tmp_path):
    with running(tmp_path, sensor={"rate": 100}) as (node, sink):
        node.await_captured(20)
        generator = node.pids()["generator"]
        with node.locked():
            before = node.rows(FIRST_ROWS, node.captured())
            wait_until(lambda: node.queues(generator), what="the generator waits to write")
            node.kill("generator")
        node.await_running("generator", instead_of=generator)
        node.await_captured(len(before) + 20)
        assert node.rows(FIRST_ROWS, len(before)) == before
        assert_nothing_lost(node, sink)
        assert_every_tick_is_accounted_for(node, kills=1)
        assert {event["detail"] for event in node.events("dropped")} == {"not running"}


def test_a_generator_killed_inside_its_transaction_leaves_all_of_it_or_nothing(tmp_path):
    fast = {"sensor": {"rate": 4000}, "sink": {"batch_size": 5000}}
    with running(tmp_path, **fast, storage={"commit_interval": "250ms"}) as (node, sink):
        node.await_captured(1000)
        generator = node.pids()["generator"]
        proc.stop_in_the_act(generator, lambda: generator in proc.holders(node.shm, proc.WAL_WRITE))
        before = node.captured()
        os.kill(generator, signal.SIGKILL)
        node.await_running("generator", instead_of=generator)
        node.await_captured(before + 1000)
        assert_nothing_lost(node, sink)
        assert_every_tick_is_accounted_for(node, kills=1)


def test_a_generator_killed_right_after_its_commit_has_kept_that_reading(tmp_path):
    with running(tmp_path, sensor={"rate": 5}) as (node, sink):
        seen = node.await_captured(node.await_captured(3) + 1)
        rows = node.rows(FIRST_ROWS, seen)
        generator = node.kill("generator")
        node.await_running("generator", instead_of=generator)
        node.await_captured(seen + 2)
        assert node.rows(FIRST_ROWS, seen) == rows
        assert_nothing_lost(node, sink)
        assert_every_tick_is_accounted_for(node, kills=1)
