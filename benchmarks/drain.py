"""How fast a backlog goes out once the sink is back, and what capture notices of it."""

import contextlib
import sqlite3
import time
from typing import NamedTuple

from benchmarks import backlog_file
from benchmarks.node import PROMPT_RETRY, Node, config_of, stopped
from benchmarks.report import Row
from benchmarks.sink import Sink, free_port
from benchmarks.trial import Trial, Unusable, percentile

SIZES = (10_000, 100_000, 1_000_000, 3_000_000)
QUICK_SIZES = (10_000, 100_000)
JUDGED = 1_000_000
SENSOR = {"source": "mock", "rate": 100}
# The node commits together what it captures within so long, at more than 10 readings a second.
COMMIT_INTERVAL_MS = 30
LEFT = 200
POLL_SECONDS = 0.005
PATIENCE_SECONDS = 300
LOOK = """
SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'message'),
       (SELECT sum(n) FROM tally WHERE status IN ('SENT', 'PURGED'))
"""
TIMES = "SELECT timestamp_us FROM message WHERE id > ? ORDER BY id"
ROWS = (
    *(
        Row(
            f"drain {size}",
            f"drain of {size:,}, from the first message to a backlog under {LEFT}",
            "s",
            2,
            at_most=5 if size == JUDGED else None,
        )
        for size in SIZES
    ),
    Row(f"drain total {JUDGED}", f"drain of {JUDGED:,}, from the sink's return", "s", 2),
    Row(
        "drain late p99",
        f"tick to stored, p99 in the largest drain; {COMMIT_INTERVAL_MS} ms of it commit interval",
        "ms",
        1,
        at_most=100,
    ),
    Row("drain late calm p99", "the same before the drain", "ms", 1),
)


class Watched(NamedTuple):
    """`ended`: when the backlog was small, CLOCK_MONOTONIC. `lateness_ms`: tick to stored."""

    ended: float
    lateness_ms: list[float]


def run(trial: Trial) -> None:
    for size in trial.size(SIZES, QUICK_SIZES):
        drain(trial, size)


def drain(trial: Trial, size: int) -> None:
    """One drain, with 100 readings a second captured meanwhile."""
    port = free_port(trial.sink_port)
    config = config_of(port, SENSOR, sink={"batch_size": 5000}, retry=PROMPT_RETRY)
    with stopped(trial, config) as node:
        backlog_file.create(node)
        backlog_file.fill(node.database, size)
        with node.running():
            calm = watch(node, seconds=trial.size(2.0, 1.0))
            with Sink(port) as sink:
                began = time.monotonic()
                watched = watch(node)
                first = sink.ask()["first_at"]
                node.ctl("stop")
        if size <= backlog_file.CHUNK:
            node.ctl("audit")
    trial.add(f"drain {size}", watched.ended - first)
    trial.add(f"drain total {size}", watched.ended - began)
    if size == trial.size(SIZES, QUICK_SIZES)[-1]:
        trial.add("drain late p99", percentile(watched.lateness_ms, 99))
        trial.add("drain late calm p99", percentile(calm.lateness_ms, 99))


def watch(node: Node, seconds: float = 0) -> Watched:
    """Look every 5 ms, until the backlog is small or for so many seconds.

    A reading is as late as it is old when it is first seen in the database: the age counts from
    its tick, so that the wait for the commit is in it, and up to 5 ms of this look.
    """
    address = f"file:{node.database}?mode=ro"
    deadline = time.monotonic() + (seconds or PATIENCE_SECONDS)
    lateness: list[float] = []
    with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
        last, sent = connection.execute(LOOK).fetchone()
        while time.monotonic() < deadline:
            captured, sent = connection.execute(LOOK).fetchone()
            now = time.time()
            if captured > last:
                new = connection.execute(TIMES, (last,)).fetchall()
                lateness += [1000 * now - us / 1000 for (us,) in new]
                last = captured
            if not seconds and captured - sent < LEFT:
                return Watched(time.monotonic(), lateness)
            time.sleep(POLL_SECONDS)
    if not seconds:
        raise Unusable(f"{captured - sent:,} are not delivered after {PATIENCE_SECONDS} s")
    return Watched(deadline, lateness)
