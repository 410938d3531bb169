"""The result as a file."""

import json
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.report import KEPT, commit
from benchmarks.trial import ROOT, Trial, Unusable


def place(keep: bool) -> Path:
    """The JSON file that is to be written. Raises Unusable if it cannot be."""
    directory = ROOT / (KEPT if keep else "build")
    name = f"{today()}.json" if keep else "bench.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unusable(f"{directory}: {error.strerror}; the result goes there") from error
    if not os.access(directory, os.W_OK):
        raise Unusable(f"{directory}: cannot be written; the result goes there")
    return directory / name


def today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def content(
    trial: Trial, runs: int, machine: dict[str, Any], software: dict[str, str]
) -> dict[str, Any]:
    """What is kept of one call."""
    return {
        "date": today(),
        "commit": commit(),
        "machine": machine,
        **software,
        "interpreter": trial.python,
        "runs": runs,
        "quick": trial.quick,
        "rows": trial.rows,
        "notes": trial.notes,
        "samples": dict(trial.samples),
        "medians": trial.medians(),
    }


def write(file: Path, result: dict[str, Any]) -> None:
    """Whole or not at all."""
    begun = file.with_suffix(".new")
    try:
        begun.write_text(json.dumps(result, indent=1) + "\n")
        begun.rename(file)
    except OSError as error:
        raise Unusable(f"{file}: {error.strerror}; the result is lost") from error
