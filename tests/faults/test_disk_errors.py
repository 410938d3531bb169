"""P1, P2, P3: a disk that is slow, read-only or fails; each reading is stored once or counted."""

import time
from pathlib import Path
from typing import NamedTuple

import pytest
from checker import judge
from crash import proc
from crash.node import Node, assert_on_grid, running
from faults.disks import (
    assert_every_tick_is_accounted_for,
    assert_nobody_died,
    delivered,
    disk,
    first_us,
    injected,
    needs_disks,
    needs_strace,
    problem_of,
)
from sinks import SinkProcess
from waiting import wait_until

RATE = 50
STANDSTILL_SECONDS = 1.5
LONGER_THAN_A_HANG = 6.0
BLKIO = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device")
LOOK = "look at the kernel's log; the card may be dying"
REMOUNT = "remount the file system for writing; the card may be dying"
QUOTA = "raise the quota of the node's user, or lower [storage] max_size; "
QUOTA += "readings wait in memory for about a minute"
LIMIT = "raise LimitFSIZE= of the service, or ulimit -f; readings wait in memory for about a minute"
SYNC = "fdatasync,fsync"
WRITE = f"pwrite64,ftruncate,{SYNC}"


class Fault(NamedTuple):
    """System calls of these processes fail; `stops` capture meanwhile, else it goes on."""

    roles: tuple[str, ...]
    calls: str
    how: str
    stops: bool
    said: str = "the database cannot be used: I/O error"
    hint: str = LOOK


EVERYBODY = ("generator", "sender-1", "sender-2", "retrier", "housekeeper")
FAULTS = {
    "the disk becomes read-only": Fault(EVERYBODY, WRITE, "error=EROFS", stops=True),
    "no fsync of a commit works": Fault(("generator",), SYNC, "error=EIO", stops=True),
    "the WAL cannot be written": Fault(("generator",), "pwrite64", "error=EIO", stops=True),
    "a quota is exceeded": Fault(
        ("generator",), "pwrite64", "error=EDQUOT", True, "quota exceeded", QUOTA
    ),
    "no file may grow": Fault(
        ("generator",), "pwrite64", "error=EFBIG", True, "file size limit", LIMIT
    ),
    "every third fsync fails": Fault(("generator",), SYNC, "error=EIO:when=2+3", stops=False),
    "a sender cannot write": Fault(("sender-1",), "pwrite64", "error=EIO", stops=False),
    "a sender cannot read": Fault(("sender-1",), "pread64", "error=EIO", stops=False),
    "an fsync takes 0.3 s": Fault(("generator",), SYNC, "delay_exit=300000", False, said=""),
}


def stands_still(node: Node) -> bool:
    newest = node.one("SELECT max(timestamp_us) FROM message")
    return time.time() - newest / 1e6 > STANDSTILL_SECONDS


def suffer(node: Node, fault: Fault) -> None:
    """Until it has taken effect; then capture catches up."""
    pids = node.pids()
    inject = f"inject={fault.calls}:{fault.how}"
    meant = [pids[role] for role in fault.roles]
    with injected(meant, "-e", f"trace={fault.calls}", "-e", inject):
        before = node.captured()
        if fault.stops:
            assert problem_of(node, fault.said)["hint"] == fault.hint
            wait_until(lambda: stands_still(node), 60, "nothing is stored", node.story)
        else:
            node.await_captured(before + RATE)
            if fault.said and "generator" not in fault.roles:
                assert problem_of(node, fault.said)["hint"] == fault.hint
    node.await_captured(before + RATE + 10)
    assert_nobody_died(node, pids)


@needs_strace
def test_errors_and_slowness_of_the_disk_cost_no_reading_and_store_none_twice(tmp_path) -> None:
    with running(tmp_path, sensor={"rate": RATE}) as (node, sink):
        first = first_us(node)
        for what, fault in FAULTS.items():
            print(what)
            suffer(node, fault)
        delivered(node, sink)
        assert node.dropped() == 0
        assert_on_grid(node.times_us(), RATE)
        assert_every_tick_is_accounted_for(node, first)


def held(node: Node) -> float:
    """Seconds for which a process has waited for the disk, with the write lock."""
    since = time.monotonic()
    while True:
        holders = proc.holders(node.writer)
        if not holders or any(proc.state(pid) != "D" for pid in holders):
            return 0.0
        if time.monotonic() - since > LONGER_THAN_A_HANG:
            return time.monotonic() - since


@needs_disks
def test_a_card_that_the_kernel_has_shut_is_borne_until_it_is_mounted_again(tmp_path) -> None:
    """errors=remount-ro: there is no way back but unmounting, so the node must be stopped."""
    state = tmp_path / "node" / "sensor-node-data"
    with disk(state, 10) as card, SinkProcess(tmp_path) as sink:
        sections: dict[str, dict[str, object]] = {"sink": {"url": sink.url}}
        with Node(tmp_path / "node", sensor={"rate": RATE}, **sections) as node:
            node.start()
            pids = node.pids()
            node.await_delivered(RATE)
            card.fail()
            problem = problem_of(node, "read-only, where the database is")
            assert problem["hint"] == REMOUNT
            wait_until(lambda: stands_still(node), 60, "nothing is stored", node.story)
            assert all(proc.is_alive(pid) for pid in pids.values())
            stored = judge(node.database, sink.database)
            stored.assert_good()
            node.run("stop")
            assert node.processes() == []
            card.unmount()
            card.mount()
            node.start()
            node.await_captured(stored.captured + RATE)
            gap = node.events("not running")[-1]
            assert gap["at"], "from the last reading stored to this start"
            assert delivered(node, sink).captured > stored.captured


@needs_disks
def test_a_disk_that_stalls_for_longer_than_a_hang_may_last_gets_nobody_killed(tmp_path) -> None:
    """One write a second: a commit takes longer than the 5 s that a holder that hangs is given."""
    if not BLKIO.exists():
        pytest.skip("slowing a disk down needs the blkio controller of cgroup v1")
    with disk(tmp_path / "disk", 10) as card, SinkProcess(tmp_path) as sink:
        sections: dict[str, dict[str, object]] = {
            "sensor": {"rate": RATE},
            "storage": {"path": card.path / "telemetry.db"},
            "sink": {"url": sink.url},
        }
        with Node(tmp_path / "node", **sections) as node:
            node.start()
            pids, first = node.pids(), first_us(node)
            try:
                BLKIO.write_text(f"{card.device()} 1")
                wait_until(lambda: held(node), 120, "the lock is held for long", node.story)
            finally:
                BLKIO.write_text(f"{card.device()} 0")
            node.await_captured(node.captured() + RATE)
            assert_nobody_died(node, pids)
            assert "process_killed" not in node.log()
            delivered(node, sink)
            assert node.dropped() == 0
            assert_every_tick_is_accounted_for(node, first)
