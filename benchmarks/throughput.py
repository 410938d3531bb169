"""What gets through of an unthrottled sensor, and the CPU that a message costs."""

import time
from typing import NamedTuple

from benchmarks.node import BULK, Node, config_of, running
from benchmarks.processes import by_role, cpu_seconds
from benchmarks.report import Row
from benchmarks.sink import Sink
from benchmarks.trial import Trial

UNLIMITED = 1_000_000


class Load(NamedTuple):
    """Messages in a request, senders, and how many are captured a second.

    Without limit, capture leaves those who deliver little at a time hardly a turn. So it is held
    there to a little more than is delivered, which the load's name tells.
    """

    batch: int
    senders: int
    captured: int = UNLIMITED

    @property
    def name(self) -> str:
        """What the names of the samples end with."""
        held = "" if self.captured == UNLIMITED else " held"
        return f"{self.batch}/{self.senders}{held}"

    @property
    def text(self) -> str:
        sensor = "unthrottled" if self.captured == UNLIMITED else f"{self.captured:,}/s captured"
        return f"batch {self.batch:,}, {self.senders} sender{'s' * (self.senders > 1)}, {sensor}"


LOADS = (
    Load(1, 2, 10_000),
    Load(10, 2, 50_000),
    Load(100, 2, 150_000),
    Load(1000, 2, 250_000),
    Load(100, 2),
    Load(1000, 2),
    Load(5000, 2),
    Load(5000, 1),
)
GOALS = {"1/2 held": 3000, "5000/2": 250_000}
COST_GOALS = {"5000/2": 6}
ROLES = ("generator", "sender", "housekeeper")
ROWS = (
    *(
        Row(
            f"throughput {load.name}",
            f"delivered, {load.text}",
            "/s",
            at_least=GOALS.get(load.name),
            beside=(f"ceiling {load.batch}/{load.senders}",),
        )
        for load in LOADS
    ),
    *(
        row
        for load in LOADS
        for row in (
            Row(f"captured {load.name}", f"captured meanwhile, {load.text}", "/s"),
            Row(f"end to end {load.name}", f"the lesser of both, {load.text}", "/s"),
        )
        if load.batch == 5000
    ),
    *(
        row
        for load in LOADS
        for row in (
            Row(
                f"generator {load.name}",
                f"generator's CPU a message captured, {load.text}",
                "µs",
                2,
            ),
            Row(f"sender {load.name}", f"senders' CPU a message delivered, {load.text}", "µs", 2),
            Row(f"housekeeper {load.name}", "  housekeeper's, of delivered", "µs", 2),
            Row(f"all {load.name}", "  all processes', of delivered", "µs", 2),
            Row(
                f"whole {load.name}",
                "  generator's of captured and all others' of delivered",
                "µs",
                2,
                at_most=COST_GOALS.get(load.name),
            ),
        )
    ),
)


def run(trial: Trial) -> None:
    for load in LOADS:
        measure(trial, load)


def measure(trial: Trial, load: Load) -> None:
    """Add the rates and costs of one load."""
    warm_up, seconds = trial.size(2.0, 1.0), trial.size(6.0, 2.0)
    sections = {"sink": {"batch_size": load.batch}, "process": {"senders": load.senders}}
    with Sink(trial.sink_port) as sink:
        config = config_of(sink.port, {**BULK, "rate": load.captured}, **sections)
        with running(trial, config) as node:
            time.sleep(warm_up)
            watch(trial, load.name, node, sink, seconds)


def watch(trial: Trial, load: str, node: Node, sink: Sink, seconds: float) -> None:
    """Add what happens within so many seconds."""
    roles = node.roles()
    before, captured = cpu_seconds(roles), node.captured()
    delivered, began = sink.messages(), time.monotonic()
    time.sleep(seconds)
    delivered, lasted = sink.messages() - delivered, time.monotonic() - began
    after, captured = cpu_seconds(roles), node.captured() - captured
    trial.add(f"throughput {load}", delivered / lasted)
    trial.add(f"captured {load}", captured / lasted)
    trial.add(f"end to end {load}", min(captured, delivered) / lasted)
    if captured and delivered:
        spent = by_role(roles, lambda pid: 1e6 * (after[pid] - before[pid]))
        costs(trial, load, spent, captured, delivered)


def costs(trial: Trial, load: str, spent: dict[str, float], captured: int, delivered: int) -> None:
    """Add CPU microseconds a message; `spent` has those of each role."""
    each = {role: spent[role] / delivered for role in ROLES}
    each["generator"] = spent["generator"] / captured
    for role, microseconds in each.items():
        trial.add(f"{role} {load}", microseconds)
    every = sum(spent.values())
    trial.add(f"all {load}", every / delivered)
    trial.add(f"whole {load}", each["generator"] + (every - spent["generator"]) / delivered)
