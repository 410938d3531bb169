"""P2, P3, P5: a full disk costs no stored reading, ends nothing, and is over when it is over."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from crash.node import Node, assert_on_grid
from faults.disks import (
    MIB,
    MOST_CPU_SHARE,
    Disk,
    assert_every_tick_is_accounted_for,
    assert_nobody_died,
    cpu_seconds,
    delivered,
    disk,
    first_us,
    needs_disks,
    problem_of,
    rss_bytes,
)
from sinks import SinkProcess, answer, ok
from waiting import wait_until

pytestmark = needs_disks
POLICIES = ["drop-oldest", "drop-newest"]
TOO_FAST = 6000
STEADY = 20
FREE_SOME = "free some space; readings wait in memory for about a minute"
DROPS = "SELECT detail, n, first / 1e6, last / 1e6 FROM event WHERE kind = 'dropped'"
# Up to here every reading of either sensor is stored.
STORED = """
SELECT min(newest) / 1e6 FROM (SELECT max(timestamp_us) AS newest FROM message GROUP BY name)
"""
TABLES = "SELECT 1 FROM sqlite_schema WHERE name = 'message'"
# What a Python process has anyway, and 60 s of readings in memory.
MOST_RSS = 80 * MIB


@pytest.mark.parametrize("policy", POLICIES)
def test_a_node_that_fills_its_disk_stops_short_of_the_end(tmp_path, policy) -> None:
    """At min_free = 0 and 6,000 readings/s, the sink being down; then it comes back."""
    state = tmp_path / "node" / "sensor-node-data"
    with disk(state, 7) as small, SinkProcess(tmp_path) as sink:
        sink.behave(answer(503))
        sections: dict[str, dict[str, object]] = {
            "sensor": {"rate": TOO_FAST},
            "storage": {"when_full": policy, "min_free": 0},
            "sink": {"url": sink.url, "batch_size": 2000},
            "log": {"level": "info"},
        }
        with Node(tmp_path / "node", **sections) as node:
            node.start()
            pids, first, least_free = node.pids(), first_us(node), small.free()

            def given_up() -> int:
                nonlocal least_free
                least_free = min(least_free, small.free())
                if policy == "drop-newest":
                    return node.dropped()
                return int(node.one("SELECT n FROM tally WHERE status = 'EVICTED'"))

            wait_until(lambda: given_up() > TOO_FAST / 2, 90, "much was given up", node.story)
            assert "free disk space" in problem_of(node, "the database is full")["hint"]
            assert_nobody_died(node, pids)
            assert "storage_unavailable" not in node.log()
            assert least_free >= 1 * MIB
            if policy == "drop-oldest":
                assert node.dropped() == 0
            node.stop()
            assert_every_tick_is_accounted_for(node, first)
            # The next run captures next to nothing.
            sink.behave(ok())
            node.configure(sensor={"rate": "1/h"})
            node.start()
            verdict = delivered(node, sink)
            print(f"least free {least_free / MIB:.1f} MiB")
            assert (verdict.evicted > 0) == (policy == "drop-oldest")


class Burst:
    """A second sensor, whose command can be told to give far more than there is room for."""

    EACH = 400
    # As much as a command may print; the fifth finds no room in memory.
    FLOOD = 32_768
    RATE = 2

    def __init__(self, directory: Path) -> None:
        self.count, self.flood = directory / "runs", directory / "flood"
        self.count.touch()
        script = directory / "burst"
        lines = f"lines={self.EACH}; if [ -e {self.flood} ]; then lines={self.FLOOD}; fi"
        prints = f"echo $lines >> {self.count}\nyes 1 | head -n $lines"
        script.write_text(f"#!/bin/sh\n{lines}\n{prints}\n")
        script.chmod(0o755)
        self.section = {"source": "command", "command": script, "rate": self.RATE}

    def runs(self) -> list[int]:
        """How many lines each printed."""
        return list(map(int, self.count.read_text().split()))


class Station(NamedTuple):
    """A node whose database is on a disk that others share, its own sink and second sensor."""

    policy: str
    node: Node
    sink: SinkProcess
    burst: Burst


@contextlib.contextmanager
def station(directory: Path, small: Disk, policy: str) -> Iterator[Station]:
    directory.mkdir()
    burst = Burst(directory)
    path = small.path / f"{policy}.db"
    with SinkProcess(directory) as sink:
        sections: dict[str, dict[str, object]] = {
            "sensor": {"rate": STEADY},
            "sensor:burst": burst.section,
            "storage": {"path": path, "min_free": 0, "when_full": policy},
            "sink": {"url": sink.url, "batch_size": 2000},
            "log": {"level": "info"},
        }
        with Node(directory / "node", **sections) as node:
            yield Station(policy, node, sink, burst)


def test_others_who_fill_the_disk_to_the_last_byte_cost_only_what_memory_cannot_hold(
    tmp_path,
) -> None:
    """In the WAL and at a checkpoint: the WAL has pages then that have no place in the file."""
    # With room for what memory holds twice over, twice: none of it should have to give way.
    with disk(tmp_path / "disk", 160) as small, contextlib.ExitStack() as stack:
        stations = [
            stack.enter_context(station(tmp_path / policy, small, policy)) for policy in POLICIES
        ]
        for one in stations:
            one.node.start()
        pids = [one.node.pids() for one in stations]
        firsts = [first_us(one.node) for one in stations]
        with contextlib.ExitStack() as readers:
            for one in stations:
                readers.enter_context(nothing_moved(one.node))
            for one in stations:
                one.node.await_captured(one.node.captured() + 3 * Burst.EACH)
            stored = [one.node.one(STORED) for one in stations]
            began = time.time()
            small.fill()
        for one in stations:
            one.burst.flood.touch()
        cpu = {pid: cpu_seconds(pid) for each in pids for pid in each.values()}
        for one in stations:
            assert problem_of(one.node, "disk full")["hint"] == FREE_SOME
            wait_until(lambda: one.burst.runs().count(Burst.FLOOD) >= 7, 60, "it is full")  # noqa: B023
            one.burst.flood.unlink()
        seconds = time.time() - began
        for pid, before in cpu.items():
            assert (cpu_seconds(pid) - before) / seconds < MOST_CPU_SHARE, pid
            assert rss_bytes(pid) < MOST_RSS, pid
        stuck = [one.node.captured() for one in stations]
        small.leave()
        for one, before in zip(stations, stuck, strict=True):
            one.node.await_captured(before + 10 * STEADY)
        mended = time.time()
        for one, each, first, since in zip(stations, pids, firsts, stored, strict=True):
            assert_nobody_died(one.node, each)
            log = one.node.log()
            assert f" {each['housekeeper']} storage_unavailable disk full" in log, "a checkpoint"
            if one.policy == "drop-newest":  # the other has nothing to write
                assert f" {each['generator']} storage_unavailable disk full" in log, "the WAL"
            assert_only_that_was_dropped(one, first, since, mended)


@contextlib.contextmanager
def nothing_moved(node: Node) -> Iterator[None]:
    """What is committed meanwhile is in the WAL alone, as somebody reads an older state."""
    with contextlib.closing(sqlite3.connect(f"{node.database.as_uri()}?mode=ro", uri=True)) as one:
        one.execute("BEGIN")
        one.execute(TABLES).fetchone()
        yield


def assert_only_that_was_dropped(one: Station, first: int, stored: float, mended: float) -> None:
    """What neither the disk nor memory had room for is counted, with reason and range."""
    node, burst = one.node, one.burst
    assert delivered(node, one.sink).evicted == 0
    steady = node.rows("SELECT timestamp_us FROM message WHERE name = 'temperature'")
    times = sorted(us for (us,) in steady)
    due = round((times[-1] - first) / 1e6 * STEADY) + 1 + sum(burst.runs())
    drops = {reason: account for reason, *account in node.rows(DROPS)}
    drops.pop("sensor burst late", None)  # the stop may have cut the last burst short
    lost = sum(count for count, *_ in drops.values())
    assert due - node.captured() - lost in (0, burst.EACH)
    assert drops.keys() <= {"disk full", "no room"}
    assert stored < min(since for _, since, _ in drops.values())
    assert max(until for *_, until in drops.values()) <= mended
    if one.policy == "drop-oldest":
        assert lost % burst.FLOOD == 0, "none but the floods'"
        assert_on_grid(times, STEADY)


def test_a_node_that_is_started_on_a_full_disk_begins_when_there_is_room(tmp_path) -> None:
    """One has its database there already, one has left a WAL in it, one has none yet."""
    with disk(tmp_path / "disk", 10) as small, contextlib.ExitStack() as stack:
        nodes, sinks = [], []
        for name in ("stopped", "killed", "new"):
            (tmp_path / name).mkdir()
            sinks.append(stack.enter_context(SinkProcess(tmp_path / name)))
            storage: dict[str, object] = {"path": small.path / f"{name}.db", "min_free": 0}
            sections = {"storage": storage, "sink": {"url": sinks[-1].url}}
            nodes.append(stack.enter_context(Node(tmp_path / name, **sections)))
        for node in nodes[:2]:
            node.start()
            node.await_captured(1)
        nodes[0].stop()
        nodes[1].kill_all()
        before = [nodes[0].captured(), nodes[1].captured(), 0]
        small.fill()
        began = time.time()
        for node in nodes:
            node.start()
        pids = [node.pids() for node in nodes]
        for node in nodes:
            problem = problem_of(node, "the database cannot be used: disk full")
            assert problem["hint"] == FREE_SOME
        mended = time.time()
        small.leave()
        for node, sink, each, captured in zip(nodes, sinks, pids, before, strict=True):
            wait_until(lambda: node.rows(TABLES), 60, "there is a database")  # noqa: B023
            node.await_captured(captured + 20)
            assert_nobody_died(node, each)
            delivered(node, sink)
            first = node.one("SELECT timestamp_us FROM message WHERE id = ?", captured + 1)
            assert began < first / 1e6 < mended, "readings have waited in memory"
            assert node.dropped() == 0
            assert_on_grid(node.times_us()[captured:], node.rate)


def test_a_node_whose_state_directory_is_full_says_so_instead_of_starting(tmp_path) -> None:
    with disk(tmp_path / "node" / "sensor-node-data", 10) as small, Node(tmp_path / "node") as node:
        small.fill()
        said = node.run("start", status=1).stderr
        assert said.endswith("sensor-node.pid: cannot be written: No space left on device\n")
        assert node.status()["state"] == "stopped"
        small.leave()
        node.start()
        node.await_captured(20)
        node.stop()
