"""What every benchmark is told, and where it puts what it finds."""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
# So that whoever clears up can tell where they came from.
PREFIX = "sensor-node-bench-"
Size = TypeVar("Size", int, float)


class Unusable(Exception):
    """One line: what cannot be used, where, and what to do."""


@dataclass
class Trial:
    """One call of scripts/bench.

    `python` runs the node. `rows` is the large database's in `backlog`. `sink_port` 0 is any.
    `samples` has a value a run under each name; `notes` are for the reader of the report.
    """

    python: str
    quick: bool = False
    rows: int = 50_000_000
    sink_port: int = 0
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)

    def size(self, full: Size, quick: Size) -> Size:
        """How many, or how long."""
        return quick if self.quick else full

    def add(self, name: str, value: float) -> None:
        self.samples[name].append(value)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add how long it takes, in milliseconds."""
        began = monotonic()
        yield
        self.add(name, 1000 * (monotonic() - began))

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in self.samples.items()}


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that at least `percent` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]
