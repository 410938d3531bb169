"""The page size: what 1, 2 and 4 KiB cost at one reading a second, and without limit."""

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import disk
from benchmarks.disk import Disk
from benchmarks.node import BULK, Node, config_of, shipped, stopped
from benchmarks.processes import bytes_written, cpu_seconds
from benchmarks.report import Row
from benchmarks.sink import Sink
from benchmarks.trial import PREFIX, ROOT, Trial, Unusable

SIZES = (1024, 2048, 4096)
CONSTANT = Path("sensor_node", "storage", "engine", "connection.py")
WARM_UP_SECONDS = 3.0
MEASURES = (
    ("slow", "written a reading at 1/s, by the processes", "bytes", 0),
    ("slow device", "written a reading at 1/s, by the device", "bytes", 0),
    ("bulk", "delivered, unthrottled, batch 5,000, 2 senders", "/s", 0),
    ("bulk cpu", "CPU a message delivered, unthrottled, all processes", "µs", 2),
    ("bulk written", "written a message captured, unthrottled, by the processes", "bytes", 1),
    ("bulk device", "written a message captured, unthrottled, by the device", "bytes", 1),
)
ROWS = tuple(
    Row(
        f"pages {name} {size}",
        f"{text}: pages of {size // 1024} KiB",
        unit,
        decimals,
        beside=(f"pages {name} {SIZES[0]}",) if size != SIZES[0] else (),
    )
    for name, text, unit, decimals in MEASURES
    for size in SIZES
)


def run(trial: Trial) -> None:
    for size in SIZES:
        with code_with(size) as code:
            slow(trial, size, code)
            bulk(trial, size, code)


@contextmanager
def code_with(size: int) -> Iterator[Path]:
    """A directory with a copy of the checkout's sensor_node whose databases have such pages."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        code = Path(name)
        shutil.copytree(ROOT / "sensor_node", code / "sensor_node")
        file = code / CONSTANT
        text, replaced = re.subn(r"(?m)^PAGE_SIZE = \d+$", f"PAGE_SIZE = {size}", file.read_text())
        if replaced != 1:
            raise Unusable(f"{CONSTANT}: has {replaced} lines `PAGE_SIZE = …`; one is expected")
        file.write_text(text)
        yield code


def slow(trial: Trial, size: int, code: Path) -> None:
    with disk.own_disk(trial) as own, Sink(trial.sink_port) as sink:
        place = own.place if own else None
        with stopped(trial, shipped(1, sink.port), place, code) as node, node.running():
            time.sleep(WARM_UP_SECONDS)
            found = written(node, own, trial.size(30.0, 5.0))
    for name, value in zip(("slow", "slow device"), found, strict=False):
        trial.add(f"pages {name} {size}", value)


def bulk(trial: Trial, size: int, code: Path) -> None:
    with disk.own_disk(trial) as own, Sink(trial.sink_port) as sink:
        place = own.place if own else None
        config = config_of(sink.port, BULK, sink={"batch_size": 5000})
        with stopped(trial, config, place, code) as node, node.running():
            roles = node.roles()
            cpu, delivered, began = cpu_seconds(roles), sink.messages(), time.monotonic()
            found = written(node, own, trial.size(6.0, 2.0))
            delivered = sink.messages() - delivered
            spent = sum(cpu_seconds(roles).values()) - sum(cpu.values())
            trial.add(f"pages bulk {size}", delivered / (time.monotonic() - began))
            trial.add(f"pages bulk cpu {size}", 1e6 * spent / delivered)
    for name, value in zip(("bulk written", "bulk device"), found, strict=False):
        trial.add(f"pages {name} {size}", value)


def written(node: Node, own: Disk | None, seconds: float) -> list[float]:
    """Bytes a reading captured, by the processes' account, and by the device's if it is ours."""
    roles, captured = node.roles(), node.captured()
    accounts = [lambda: bytes_written(roles), *([own.written] if own else [])]
    before = [account() for account in accounts]
    time.sleep(seconds)
    after = [account() for account in accounts]
    captured = node.captured() - captured
    return [(end - begin) / captured for begin, end in zip(before, after, strict=True)]
