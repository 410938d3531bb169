"""How long `start` takes until every process is ready, and `stop`."""

import subprocess
import time

from benchmarks.node import shipped, stopped
from benchmarks.report import Row
from benchmarks.sink import Sink
from benchmarks.trial import Trial

TIMES = 3
# Then it is idle.
SETTLE_SECONDS = 2.0
ROWS = (
    Row("start", "sensor-node-ctl start, until every process is ready", "ms", 0, at_most=1000),
    Row("stop", "sensor-node-ctl stop, idle", "ms", 0, at_most=1000),
    Row("python", "  python3 -c pass", "ms", 0),
)


def run(trial: Trial) -> None:
    for _ in range(trial.size(TIMES, 1)):
        measure(trial)
        with trial.timed("python"):
            subprocess.run([trial.python, "-c", "pass"], check=True)


def measure(trial: Trial) -> None:
    with (
        Sink(trial.sink_port) as sink,
        stopped(trial, shipped(1, sink.port)) as node,
        node.running(),  # the first start, which makes the database
    ):
        node.ctl("stop")
        with trial.timed("start"):
            node.ctl("start")
        time.sleep(SETTLE_SECONDS)
        with trial.timed("stop"):
            node.ctl("stop")
