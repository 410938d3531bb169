"""P1, P3, P5, P7: a program that keeps a transaction open costs no reading before the disk ends."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from crash.node import Node, assert_on_grid, running
from faults.disks import (
    MIB,
    Disk,
    assert_every_tick_is_accounted_for,
    assert_nobody_died,
    delivered,
    disk,
    first_us,
    needs_disks,
    problem_of,
)
from sinks import SinkProcess
from waiting import wait_until

from sensor_node.core.errors import LOCKED
from sensor_node.storage.engine.checkpoint import WAL_CHECKPOINT_BYTES, WAL_LIMIT_BYTES, wal_bytes
from sensor_node.storage.queue.room import LOG_HELD

FAST = 20_000
# From the end of the other program's transaction; 5 s are promised, to a machine that has time.
MENDED_SECONDS = 20.0
READ = "BEGIN; SELECT count(*) FROM message"
WRITE = "BEGIN IMMEDIATE"
PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
for statement in sys.argv[2].split("; "):
    connection.execute(statement).fetchall()
print("it has begun", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def transaction(node: Node, statements: str) -> Iterator[int]:
    """Another program's, until the end. Its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(node.database), statements],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdin
        try:
            assert process.stdout.readline() == "it has begun\n"
            yield process.pid
        finally:
            process.stdin.close()
            process.wait(60)


def dropped_for(node: Node, reason: str) -> int:
    return int(node.one("SELECT coalesce(sum(n), 0) FROM dropped WHERE reason = ?", reason))


def await_mended(node: Node, since: float) -> None:
    """Capture goes on, the log is short and the history tells of its end."""
    captured = node.captured()

    def is_mended() -> bool:
        short = wal_bytes(node.database) <= 2 * WAL_CHECKPOINT_BYTES
        return short and node.captured() > captured and bool(node.events("log free"))

    wait_until(is_mended, MENDED_SECONDS, "all is as before", node.story)
    print(f"all was as before {time.monotonic() - since:.1f} s after its end")
    assert "read transaction" not in str(node.status()["problems"])


def test_a_reader_for_long_stops_no_capture_and_is_named(tmp_path) -> None:
    sections = {"sensor": {"rate": FAST}, "storage": {"max_size": "4MiB"}}
    with running(tmp_path, **sections, sink={"batch_size": 5000}) as (node, _):
        pids, first = node.pids(), first_us(node)
        with transaction(node, READ) as pid:
            wait_until(
                lambda: wal_bytes(node.database) > 2 * WAL_LIMIT_BYTES,
                60,
                "the log is long",
                node.story,
            )
            captured = node.captured()
            node.await_captured(captured + FAST)
            what = problem_of(node, "read transaction")["what"]
            assert f" (pid {pid}) has held" in what
            assert "not stored" not in what
            [event] = node.events("log held")
            assert f" (pid {pid})" in event["detail"]
        await_mended(node, time.monotonic())
        assert_nobody_died(node, pids)
        # At the stop, what waits for room in so small a database finds none.
        assert node.dropped() == 0
        node.stop()
        assert node.run("audit").stdout
        assert_every_tick_is_accounted_for(node, first)


@needs_disks
@pytest.mark.parametrize(
    ("policy", "mib"), [("drop-oldest", 32), ("drop-newest", 32), ("drop-oldest", 14)]
)
def test_a_log_that_has_had_all_of_the_disk_costs_only_counted_readings(
    tmp_path, policy, mib
) -> None:
    """At min_free = 0; the generator is killed while it drops, and its successor goes on.

    On the smallest disk the log never comes to its limit, and eats from the reserve.
    """
    state = tmp_path / "node" / "sensor-node-data"
    with disk(state, mib) as small, SinkProcess(tmp_path) as sink:
        sections: dict[str, dict[str, object]] = {
            "sensor": {"rate": FAST},
            "storage": {"min_free": 0, "when_full": policy, "max_size": f"{max(4, mib // 4)}MiB"},
            "sink": {"url": sink.url, "batch_size": 5000},
            "log": {"level": "info"},
        }
        with Node(tmp_path / "node", **sections) as node:
            node.start()
            first = first_us(node)
            with transaction(node, READ) as pid:
                least_free = await_drops(node, small, 2 * FAST)
                said = problem_of(node, "the disk has no more, and new readings are not stored")
                assert f" (pid {pid}) has held a read transaction" in said["what"]
                captured = node.captured()
                generator = node.kill("generator")
                node.await_running("generator", instead_of=generator)
                least_free = min(least_free, await_drops(node, small, node.dropped() + 2 * FAST))
                assert node.captured() == captured, "nothing more was stored"
            await_mended(node, time.monotonic())
            print(f"least free {least_free / MIB:.1f} MiB")
            assert least_free >= 1 * MIB
            assert "storage_unavailable" not in node.log()
            node.stop()
            assert_every_tick_is_accounted_for(node, first)
            node.configure(sensor={"rate": "1/h"})
            node.start()
            delivered(node, sink)


def await_drops(node: Node, small: Disk, count: int) -> int:
    """Wait until so many readings are dropped because of the log. The least that was free."""
    least = small.free()

    def are_dropped() -> bool:
        nonlocal least
        least = min(least, small.free())
        return node.dropped() >= count and dropped_for(node, LOG_HELD) > 0

    wait_until(are_dropped, 90, "readings are dropped", node.story)
    return least


def test_a_writer_that_does_not_end_is_named_and_costs_what_memory_cannot_hold(tmp_path) -> None:
    """A command gives far more than a minute of it has room for in memory."""
    burst = {"source": "command", "command": "seq 10000", "rate": 2}
    with running(tmp_path, **{"sensor:burst": burst}) as (node, _):
        pids = node.pids()
        node.await_captured(3000)
        with transaction(node, WRITE) as pid:
            said = problem_of(node, "locked by another program")
            assert ": by python" in said["what"]
            assert f" (pid {pid})" in said["what"]
            assert "end that program's transaction" in said["hint"]
            held, end = node.captured(), time.monotonic() + 10
            wait_until(lambda: time.monotonic() > end, what="memory is full")
            assert node.captured() == held
            problem_of(node, f"(pid {pid})")
        since = time.monotonic()
        wait_until(lambda: node.captured() > held, MENDED_SECONDS, "capture goes on", node.story)
        wait_until(
            lambda: "locked" not in str(node.status()["problems"]), MENDED_SECONDS, "it is over"
        )
        print(f"all was as before {time.monotonic() - since:.1f} s after its end")
        assert_nobody_died(node, pids)
        node.stop()
        reasons = {reason for (reason,) in node.rows("SELECT reason FROM dropped")}
        # Memory may be full before the first commit has failed.
        assert LOCKED in reasons <= {LOCKED, "buffer full", "sensor burst late"}
        steady = node.rows("SELECT timestamp_us FROM message WHERE name = 'temperature'")
        assert_on_grid(sorted(us for (us,) in steady), node.rate)
