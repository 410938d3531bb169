"""A link with a long round trip: senders × batch size / round trip is all that can be had."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import backlog_file
from benchmarks.node import config_of, stopped
from benchmarks.report import Row
from benchmarks.sink import Sink, free_port
from benchmarks.trial import Trial

PROGRAM = str(Path(__file__).with_name("slow_link.py"))
DELAY_MS = 150
SENDERS = 2
BATCH_SIZE = 500
WARM_UP_SECONDS = 2.0
# Captured meanwhile: next to nothing.
SENSOR = {"source": "mock", "rate": 1}
ROWS = (
    Row("link", f"delivered over {2 * DELAY_MS} ms, batch {BATCH_SIZE}, {SENDERS} senders", "/s"),
    Row("link share", "the same, of senders × batch size / round trip", "", 3, at_least=0.9),
    Row("link bytes", "bytes a message over that link, both ways", "bytes", 1),
)


def formula(senders: int, batch_size: int, round_trip_ms: float) -> float:
    """Messages a second, if a sender has its next request ready as soon as the answer is there.

    The first request of a connection takes one round trip more, for connecting.
    """
    return senders * batch_size * 1000 / round_trip_ms


@contextmanager
def slow_link(target: int, delay_ms: int) -> Iterator[tuple[int, dict[str, int]]]:
    """The port to send to, and what was carried, filled in when it is over."""
    process = subprocess.Popen(
        [sys.executable, PROGRAM, str(target), str(delay_ms)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    carried: dict[str, int] = {}
    try:
        yield int(process.stdout.readline()), carried
    finally:
        printed, _ = process.communicate()
        carried.update(json.loads(printed))


def run(trial: Trial) -> None:
    seconds = trial.size(10.0, 4.0)
    most = formula(SENDERS, BATCH_SIZE, 2 * DELAY_MS)
    with Sink(trial.sink_port) as sink, slow_link(sink.port, DELAY_MS) as (port, carried):
        delivered, lasted = deliver(trial, sink, port, seconds, int(2 * most * seconds))
        trial.add("link", delivered / lasted)
        trial.add("link share", delivered / lasted / most)
        everything = sink.messages()
    trial.add("link bytes", (carried["sent"] + carried["received"]) / everything)


def deliver(trial: Trial, sink: Sink, port: int, seconds: float, backlog: int) -> tuple[int, float]:
    """Messages delivered of a backlog, and in how many seconds."""
    absent = config_of(free_port(0), SENSOR)
    sections = {"sink": {"batch_size": BATCH_SIZE}, "process": {"senders": SENDERS}}
    with stopped(trial, absent) as node:
        backlog_file.create(node)
        backlog_file.fill(node.database, backlog)
        node.config.write_text(config_of(port, SENSOR, **sections))
        with node.running():
            time.sleep(WARM_UP_SECONDS)
            before, began = sink.messages(), time.monotonic()
            time.sleep(seconds)
            return sink.messages() - before, time.monotonic() - began
