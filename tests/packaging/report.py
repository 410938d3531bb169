"""Figures that a run is to leave behind: printed, and added to the file $SENSOR_NODE_REPORT."""

import os
from pathlib import Path


def report(line: str) -> None:
    print(line)
    if file := os.environ.get("SENSOR_NODE_REPORT"):
        with Path(file).open("a") as out:
            out.write(line + "\n")
