"""Draws throughput against batch size, and drain time against backlog.

Usage: plots.py RESULT.json PREFIX    by a Python that has matplotlib. Writes PREFIXthroughput.png
and PREFIXdrain.png, of what the result has, and prints their names.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import StrMethodFormatter

INK, SECOND = "#1f4e79", "#c55a11"


def series(medians: dict[str, float], name: str, end: str = "") -> list[tuple[int, float]]:
    """The points (N, median) of the samples called `NAME N`, in order; `end` comes after N."""
    found = []
    for key, value in medians.items():
        middle = key.removeprefix(f"{name} ").removesuffix(end)
        if key == f"{name} {middle}{end}" and middle.isdecimal():
            found.append((int(middle), value))
    return sorted(found)


def throughput(medians: dict[str, float], file: str) -> bool:
    """False if there is nothing to draw."""
    points = series(medians, "throughput", "/2")
    held = series(medians, "throughput", "/2 held")
    if not points:
        return False
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(*zip(*points, strict=True), "o-", color=INK, label="unthrottled sensor, 2 senders")
    if held:
        label = "capture held to little more than is delivered, 2 senders"
        axes.plot(*zip(*held, strict=True), "^--", color=INK, label=label)
    if lone := series(medians, "throughput", "/1"):
        axes.plot(*zip(*lone, strict=True), "s", color=SECOND, label="unthrottled sensor, 1 sender")
    axes.set_xscale("log")
    axes.set_xticks(sorted({size for size, _ in points + held}))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.minorticks_off()
    finish(axes, "Throughput", "batch size (messages in a request)", "messages a second")
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)
    return True


def drain(medians: dict[str, float], file: str) -> bool:
    """False if there is nothing to draw."""
    points = series(medians, "drain")
    if not points:
        return False
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(*zip(*points, strict=True), "o-", color=INK)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    finish(axes, "Draining a backlog", "backlog (messages)", "time to drain (s)")
    figure.savefig(file, dpi=150)
    return True


def finish(axes: plt.Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.grid(color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    medians = json.loads(Path(sys.argv[1]).read_text())["medians"]
    for draw in (throughput, drain):
        file = f"{sys.argv[2]}{draw.__name__}.png"
        if draw(medians, file):
            print(file)


if __name__ == "__main__":
    main()
