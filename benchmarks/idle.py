"""What the node takes of the machine at one reading a second, with the configuration as shipped."""

import time

from benchmarks import aged, disk, syncs
from benchmarks.disk import Disk
from benchmarks.node import Node, shipped, stopped
from benchmarks.processes import bytes_written, cpu_seconds, pss_mib, switches
from benchmarks.report import Row
from benchmarks.sink import Sink
from benchmarks.trial import Trial

WARM_UP_SECONDS = 5.0
# The size at which the housekeeper has the WAL begin anew; at some 13 KiB a reading.
LOG_BYTES = 1024 * 1024
LOG_SECONDS = 300.0
ROWS = (
    Row("idle cpu", "CPU of all processes at 1/s, of one core", "%", 2, at_most=0.5),
    Row("idle pss", "memory of all processes at 1/s (PSS)", "MiB", 1, at_most=50),
    Row("idle wakeups", "wake-ups of all threads at 1/s", "/s", 1, at_most=50),
    Row("idle fsyncs generator", "fsyncs a reading at 1/s: generator", "", 2, at_most=1),
    Row("idle fsyncs", "fsyncs a reading at 1/s: all processes", "", 2),
    Row("idle written", "written a reading at 1/s, by the processes", "KiB", 1, at_most=16),
    Row("idle device", "written a reading at 1/s, by the device", "KiB", 1, at_most=16),
    *aged.ROWS,
)


def run(trial: Trial) -> None:
    with disk.own_disk(trial) as own, Sink(trial.sink_port) as sink:
        place = own.place if own else None
        with stopped(trial, shipped(1, sink.port), place) as node, node.running():
            time.sleep(WARM_UP_SECONDS)
            if trial.quick:
                trial.note("Idle: the log still grows, so the device gets more than later.")
            else:
                await_full_log(node)
            watch(trial, node, own, trial.size(60.0, 10.0))
            count_syncs(trial, node, trial.size(20.0, 5.0))
    aged.run(trial)


def await_full_log(node: Node) -> None:
    """Until the WAL is written in place, as it is for all but the first minutes of a node's life.

    While it grows each fsync writes the file system's journal too.
    """
    wal = node.database.with_name(node.database.name + "-wal")
    deadline = time.monotonic() + LOG_SECONDS
    while wal.stat().st_size < LOG_BYTES and time.monotonic() < deadline:
        time.sleep(1)
    time.sleep(WARM_UP_SECONDS)


def watch(trial: Trial, node: Node, own: Disk | None, seconds: float) -> None:
    """Only /proc is read while it lasts: `status` would be measured too."""
    roles, captured = node.roles(), node.captured()
    on_disk = own.written() if own else 0
    cpu, woken, written = cpu_seconds(roles), switches(roles), bytes_written(roles)
    began = time.monotonic()
    time.sleep(seconds)
    lasted = time.monotonic() - began
    woken, written = switches(roles) - woken, bytes_written(roles) - written
    spent = sum(cpu_seconds(roles).values()) - sum(cpu.values())
    on_disk = own.written() - on_disk if own else 0
    trial.add("idle pss", pss_mib(roles))
    readings = node.captured() - captured
    trial.add("idle cpu", 100 * spent / lasted)
    trial.add("idle wakeups", woken / lasted)
    trial.add("idle written", written / readings / 1024)
    if own:
        trial.add("idle device", on_disk / readings / 1024)


def count_syncs(trial: Trial, node: Node, seconds: float) -> None:
    """In a time of its own: who is traced is slower."""
    if not syncs.is_possible():
        trial.note("fsyncs: left out, there is no strace here")
        return
    roles, captured = node.roles(), node.captured()
    found = syncs.counted(roles, seconds)
    readings = node.captured() - captured
    if not found:
        trial.note("fsyncs: left out, strace may not look at other processes here")
        return
    generator = sum(calls for pid, calls in found.items() if roles[pid] == "generator")
    trial.add("idle fsyncs generator", generator / readings)
    trial.add("idle fsyncs", sum(found.values()) / readings)
