"""What `scripts/bench faults` measures: readings lost or stored twice, spell by spell.

Prints a markdown table. Ends with 1 if anything was lost, stored twice or DEAD.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from faults.peers import SPELLS, STORMS, Result, spell, storm  # noqa: E402

# As it is installed, but for the size of the batches.
USUAL = {
    "retry": {"initial_delay": "1s", "max_delay": "5m"},
    "storage": {"max_size": "4GiB"},
    "log": {"level": "info"},
}
HEAD = (
    "| fault | accepted | lost | stored twice (copies received more than once) | DEAD | IN_DOUBT "
    "| requests | drained after |\n|---|---:|---:|---:|---:|---:|---:|---:|"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench faults", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", metavar="N", type=int, default=random.randrange(2**32))
    parser.add_argument("--only", metavar="TEXT", default="", help="only faults that contain this")
    options = parser.parse_args()
    names = [*SPELLS, *storms()]
    if not any(options.only in name for name in names):
        print(f"bench: no fault contains {options.only!r}: {', '.join(names)}", file=sys.stderr)
        return 2
    print(f"seed {options.seed}\n\n{HEAD}", flush=True)
    good = True
    for name, result in results(options.only, options.seed):
        good &= result.is_good
        found = result.verdict
        print(
            f"| {name} | {found.captured:,} | {result.lost} | "
            f"{result.stored_twice} ({len(found.stored_twice):,}) | {found.dead} | "
            f"{found.in_doubt} | {result.requests:,} | {result.drained:.1f} s |",
            flush=True,
        )
        if not result.is_good:
            print(f"bench: {name}: {found}", file=sys.stderr)
    return 0 if good else 1


def storms() -> dict[str, tuple[int, Any]]:
    return {f"{kills} kills, {where}": (kills, usual) for where, (kills, usual) in STORMS.items()}


def results(only: str, seed: int) -> Iterator[tuple[str, Result]]:
    for name, bad in SPELLS.items():
        if only in name:
            with tempfile.TemporaryDirectory(prefix="sensor-node-bench-") as place:
                sections = {**USUAL, "sink": {"batch_size": 100}}
                times = {"before": 2.0, "lasts": 8.0, "after": 2.0}
                yield name, spell(Path(place), bad, rate=2000, **times, **sections)
    for name, (kills, usual) in storms().items():
        if only in name:
            with tempfile.TemporaryDirectory(prefix="sensor-node-bench-") as place:
                sections = {**USUAL, "sink": {"batch_size": 1000}}
                yield name, storm(Path(place), usual, rate=5000, kills=kills, seed=seed, **sections)


if __name__ == "__main__":
    sys.exit(main())
