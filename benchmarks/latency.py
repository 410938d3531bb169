"""From capture to complete arrival at the sink, with the configuration as shipped."""

import time

from benchmarks.node import running, shipped
from benchmarks.report import Row
from benchmarks.sink import Sink
from benchmarks.trial import Trial, percentile

# Readings a second, and for how many seconds: enough of them for a p99 where that has a goal.
RATES = ((1, 60), (10, 30), (100, 10))
QUICK_SECONDS = 5
WARM_UP_SECONDS = 2.0
GOALS = {50: 25, 99: 60}
ROWS = tuple(
    Row(
        f"latency p{percent} at {rate}",
        f"capture to sink at {rate}/s, p{percent}",
        "ms",
        1,
        at_most=GOALS[percent],
    )
    for rate, _ in RATES
    for percent in GOALS
)


def run(trial: Trial) -> None:
    for rate, seconds in RATES:
        measure(trial, rate, trial.size(seconds, QUICK_SECONDS))
    trial.note(
        "Latency ends when the sink has the whole request; of that the sink's own part is some "
        "0.1 ms. At more than 10/s readings are committed together each 30 ms, so that one waits "
        "15 ms on average."
    )


def measure(trial: Trial, rate: int, seconds: float) -> None:
    with Sink(trial.sink_port, latencies=True) as sink, running(trial, shipped(rate, sink.port)):
        time.sleep(WARM_UP_SECONDS)
        sink.ask()
        time.sleep(seconds)
        found = sink.ask()["latencies"]
    for percent in GOALS:
        trial.add(f"latency p{percent} at {rate}", 1000 * percentile(found, percent))
