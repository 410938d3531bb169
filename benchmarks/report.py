"""The table for people, the JSON for the next run, and the comparison with the last result."""

import json
import statistics
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.trial import ROOT

KEPT = "docs/benchmarks"
HEAD = (
    "| measure | median | range | goal | beside | to the last result |\n"
    "|---|---:|---:|---|---|---:|"
)
CEILING = "ceiling"
# Whoever gets more out of the sink than this is measured together with it.
SINK_BOUND = 0.5


class Row(NamedTuple):
    """One line of the table: the samples' name, what they are, and what to compare them with.

    `at_most` and `at_least` are goals. `beside` names other samples of the same run.
    """

    name: str
    text: str
    unit: str
    decimals: int = 0
    at_most: float | None = None
    at_least: float | None = None
    beside: tuple[str, ...] = ()


def table(rows: Iterable[Row], samples: dict[str, list[float]], last: dict[str, float]) -> str:
    """Markdown of what there are samples of; `last` has the last result's medians."""
    shown = [row for row in rows if samples.get(row.name)]
    return "\n".join([HEAD, *(line(row, samples, last) for row in shown)])


def line(row: Row, samples: dict[str, list[float]], last: dict[str, float]) -> str:
    values = samples[row.name]
    median = statistics.median(values)
    low, high = (f"{value:,.{row.decimals}f}" for value in (min(values), max(values)))
    span = f"{low}–{high}" if len(values) > 1 else ""
    before = last.get(row.name)
    change = f"{median / before:.2f}" if before else ""
    shown = f"{median:,.{row.decimals}f} {row.unit}".rstrip()
    others = "; ".join(filter(None, (ratio(median, name, samples) for name in row.beside)))
    return f"| {row.text} | {shown} | {span} | {goal(row, median)} | {others} | {change} |"


def goal(row: Row, median: float) -> str:
    """`≤ 50 met`; the figure is judged, not what it is rounded to."""
    if row.at_most is not None:
        return f"≤ {row.at_most:,g} {'met' if median <= row.at_most else '**missed**'}"
    if row.at_least is not None:
        return f"≥ {row.at_least:,g} {'met' if median >= row.at_least else '**missed**'}"
    return ""


def ratio(median: float, name: str, samples: dict[str, list[float]]) -> str:
    """The share of the sink's ceiling, or the ratio to other samples."""
    others = samples.get(name)
    if not others or not statistics.median(others):
        return ""
    found = median / statistics.median(others)
    if not name.startswith(CEILING):
        return f"{found:.3g} × {name}"
    flag = ", sink-bound" if found > SINK_BOUND else ""
    return f"{100 * found:.1f}% of {name}{flag}"


def last_result(root: Path = ROOT) -> tuple[str, dict[str, Any]]:
    """Name and content of the newest result that git has; nothing if it has none."""
    names = git(root, "ls-tree", "--name-only", "HEAD", f"{KEPT}/").split()
    kept = sorted(name for name in names if name.endswith(".json"))
    if not kept:
        return "", {}
    try:
        return kept[-1], json.loads(git(root, "show", f"HEAD:{kept[-1]}"))
    except ValueError:
        return "", {}


def compared(name: str, last: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a reader must know of the result that this one is compared with."""
    if not last:
        return [f"No result in {KEPT}/ is committed yet to compare this one with."]
    told = [f"The last result is {name}, of commit {last['commit']}."]
    then, here = last["machine"], now["machine"]
    if (then["cpu"], then["cores"]) != (here["cpu"], here["cores"]):
        told.append(
            f"That was another machine ({then['cpu']}, {then['cores']} cores; here "
            f"{here['cpu']}, {here['cores']}): the ratios say little of the program."
        )
    if last.get("quick") != now["quick"]:
        told.append("One of the two is a --quick one: sizes and times differ.")
    return told


def commit(root: Path = ROOT) -> str:
    """Of the checkout, `-dirty` if it has been edited since; empty without git."""
    return git(root, "describe", "--always", "--dirty", "--exclude", "*").strip()


def git(root: Path, *arguments: str) -> str:
    """What git prints; nothing where it fails, is not there, or this is no checkout."""
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return "" if done.returncode else done.stdout
