"""What an old database costs at one reading a second: nodes of different age, side by side.

They run at the same time, so that what else this machine does meets all of them.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks import backlog_file
from benchmarks.node import STORAGE, Node, config_of, stopped
from benchmarks.processes import cpu_seconds
from benchmarks.report import Row
from benchmarks.sink import Sink
from benchmarks.trial import Trial

DAY = 86_400
SENSOR = {"source": "mock", "rate": 1}
# By name: delivered readings, one each second up to now, and how long they are kept. Of `due`, one
# a second is to be deleted.
AGES = {
    "fresh": (0, "3650d"),
    "day": (DAY, "3650d"),
    "month": (30 * DAY, "3650d"),
    "due": (30 * DAY, "30d"),
}
QUICK_SHARE = 10
# At the start the housekeeper looks for damage, for 2 s at most, and sweeps from the bottom.
WARM_UP_SECONDS = 10.0
ROWS = (
    Row("idle cpu fresh", "CPU at 1/s, beside the next: a fresh database", "%", 2),
    Row("idle cpu day", "  the same: a day of readings kept", "%", 2),
    Row("idle cpu day ratio", "    to the fresh one's", "×", 2, at_most=1.1),
    Row("idle cpu month", "  the same: 30 days kept", "%", 2),
    Row("idle cpu month ratio", "    to the fresh one's", "×", 2, at_most=1.1),
    Row("idle cpu due", "  the same: 30 days, one becomes due each second", "%", 2),
    Row("idle cpu due ratio", "    to the fresh one's", "×", 2, at_most=1.1),
)


def run(trial: Trial) -> None:
    with ExitStack() as running:
        nodes = {name: running.enter_context(aged(trial, *AGES[name])) for name in AGES}
        time.sleep(WARM_UP_SECONDS)
        roles = {name: node.roles() for name, node in nodes.items()}
        before = {name: sum(cpu_seconds(roles[name]).values()) for name in AGES}
        began = time.monotonic()
        # Sweeps are a minute apart.
        time.sleep(trial.size(120.0, 10.0))
        lasted = time.monotonic() - began
        spent = {name: sum(cpu_seconds(roles[name]).values()) - before[name] for name in AGES}
    for name in AGES:
        trial.add(f"idle cpu {name}", 100 * spent[name] / lasted)
        if name != "fresh":
            trial.add(f"idle cpu {name} ratio", spent[name] / spent["fresh"])


@contextmanager
def aged(trial: Trial, readings: int, keep_sent: str) -> Iterator[Node]:
    """A running node that has delivered so many readings before."""
    with Sink() as sink:
        config = config_of(sink.port, SENSOR, storage={**STORAGE, "keep_sent": keep_sent})
        with stopped(trial, config) as node:
            backlog_file.create(node)
            backlog_file.fill_sent(node.database, trial.size(readings, readings // QUICK_SHARE))
            with node.running():
                yield node
