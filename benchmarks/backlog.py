"""Whether anything costs more with a backlog of tens of millions than with one of 100,000."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import backlog_file
from benchmarks.node import PROMPT_RETRY, Node, config_of, run_with_our_code, stopped
from benchmarks.processes import cpu_seconds, rss_mib
from benchmarks.report import Row
from benchmarks.sink import Sink, free_port
from benchmarks.trial import Trial, Unusable

SMALL_ROWS = 100_000
CLAIMS = str(Path(__file__).with_name("claims.py"))
SENSOR = {"source": "mock", "rate": 1}
# As many as are delivered are added meanwhile, to the large backlog too, in pieces whose
# transaction is shorter than the node waits for another program.
PIECE = 20_000
LOOK_SECONDS = 0.02
# At the start the housekeeper looks for damage, for 2 s at most: that is no cost of delivery.
CHECK_SECONDS = 3.0
PATIENCE_SECONDS = 300
# A row is some 50 bytes; as much again for the WAL and for what is added.
ROW_BYTES = 60
SIZES = ("small", "large")
MEASURES = (
    ("cpu", "CPU a message delivered, all processes", "µs", 2),
    ("claim", "claim and settle 5,000", "ms", 2),
    ("status", "sensor-node-ctl status", "ms", 0),
    ("start", "sensor-node-ctl start", "ms", 0),
    ("rss", "memory after delivering (RSS of all)", "MiB", 1),
)
ROWS = tuple(
    row
    for name, text, unit, decimals in MEASURES
    for row in (
        Row(f"backlog {name} small", f"{text}: backlog of {SMALL_ROWS:,}", unit, decimals),
        Row(f"backlog {name} large", "  the same: backlog of --rows", unit, decimals),
        Row(f"backlog {name} ratio", "  large to small", "×", 2, at_most=1.2),
    )
)


def bytes_needed(rows: int) -> int:
    return 2 * ROW_BYTES * rows


def run(trial: Trial) -> None:
    """Small and large take turns, so that what else this machine does meets both."""
    port = free_port(trial.sink_port)
    with prepared(trial, port, SMALL_ROWS) as small, prepared(trial, port, trial.rows) as large:
        nodes = {"small": small, "large": large}
        for _ in range(trial.size(3, 1)):
            for size, node in nodes.items():
                deliver(trial, size, node, port)
                backlog_file.fill_up(node.database, trial.rows if node is large else SMALL_ROWS)
        for _ in range(trial.size(5, 3)):
            for size, node in nodes.items():
                claim(trial, size, node)
        for _ in range(trial.size(5, 3)):
            for size, node in nodes.items():
                commands(trial, size, node)
    for name, *_ in MEASURES:
        found = [statistics.median(trial.samples[f"backlog {name} {size}"]) for size in SIZES]
        trial.add(f"backlog {name} ratio", found[1] / found[0])
    trial.note(f"The large backlog has {trial.rows:,} rows.")


@contextmanager
def prepared(trial: Trial, port: int, rows: int) -> Iterator[Node]:
    """A stopped node with so many messages that nobody has claimed."""
    config = config_of(port, SENSOR, sink={"batch_size": 5000}, retry=PROMPT_RETRY)
    with stopped(trial, config) as node:
        backlog_file.create(node)
        backlog_file.fill(node.database, rows)
        yield node


def deliver(trial: Trial, size: str, node: Node, port: int) -> None:
    """Add CPU a message and memory of a run that delivers 500,000."""
    wanted = trial.size(500_000, 200_000)
    with node.running():
        roles = node.roles()
        time.sleep(CHECK_SECONDS)
        before = cpu_seconds(roles)
        with Sink(port) as sink:
            delivered = top_up(node, sink, wanted)
            spent = sum(cpu_seconds(roles).values()) - sum(before.values())
            trial.add(f"backlog rss {size}", rss_mib(roles))
            node.ctl("stop")
    trial.add(f"backlog cpu {size}", 1e6 * spent / delivered)


def top_up(node: Node, sink: Sink, wanted: int) -> int:
    """Keep the backlog's size until at least `wanted` are delivered; returns how many were."""
    deadline, added, delivered = time.monotonic() + PATIENCE_SECONDS, 0, 0
    with backlog_file.opened(node.database) as connection:
        while delivered < wanted:
            if time.monotonic() > deadline:
                raise Unusable(f"only {delivered:,} are delivered after {PATIENCE_SECONDS} s")
            if delivered >= added + PIECE:
                backlog_file.insert(connection, PIECE, time.time_ns() // 1000 - 1000 * PIECE)
                added += PIECE
            else:
                time.sleep(LOOK_SECONDS)
            delivered = sink.messages()
    return delivered


def claim(trial: Trial, size: str, node: Node) -> None:
    for milliseconds in run_with_our_code(trial.python, CLAIMS, str(node.database), "3"):
        trial.add(f"backlog claim {size}", milliseconds)


def commands(trial: Trial, size: str, node: Node) -> None:
    """With the sink absent, so that nothing else goes on."""
    with node.running():
        node.ctl("stop")
        with trial.timed(f"backlog start {size}"):
            node.ctl("start")
        time.sleep(1)
        with trial.timed(f"backlog status {size}"):
            node.ctl("status")
