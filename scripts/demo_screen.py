"""What scripts/demo shows: narration that stays, and an account that is refreshed in place."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import NamedTuple

BAR_CELLS = 40
# The bar is full at the largest backlog so far, and at no less than this.
LEAST_SCALE = 20
RED, GREEN, BOLD, PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[1m", "\x1b[0m"


class View(NamedTuple):
    """One look at the node, since the demo's beginning; `sink` is the node's own opinion."""

    elapsed: float
    seconds: float
    captured: int
    delivered: int
    backlog: int
    peak: int
    sink_up: bool
    sink: str


class Screen:
    """A block of three lines on a terminal; elsewhere a line for each look."""

    def __init__(self) -> None:
        self.is_live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colours = self.is_live and not os.environ.get("NO_COLOR")
        self._cell = "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"
        self._shown: list[str] = []

    def narrate(self, text: str) -> None:
        """Something happens: said once, above the block."""
        block = self._shown
        self._erase()
        width = shutil.get_terminal_size().columns - 1 if self.is_live else 1000
        said = textwrap.fill(f"> {text}", width, subsequent_indent="  ")
        print(self._paint(said, BOLD), flush=True)
        self._draw(block)

    def show(self, view: View) -> None:
        scale = max(LEAST_SCALE, view.peak)
        bar = self._cell * -(-view.backlog * BAR_CELLS // scale)
        at = f"{int(view.elapsed):3} s of {view.seconds:g}"
        if not self.is_live:
            counts = f"captured {view.captured:<4} delivered {view.delivered:<4}"
            print(f"{at}  {counts} backlog {view.backlog:<4} sink {view.sink}  {bar}", flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        state = f"  sink     {view.sink}"[:width]
        lines = [
            f"  {at}   captured {view.captured}   delivered {view.delivered}"[:width],
            f"  backlog  {view.backlog:<4} {bar}"[:width],
            self._paint(state, GREEN if view.sink_up else RED),
        ]
        self._erase()
        self._draw(lines)

    def close(self) -> None:
        """The block stays as it is; what follows is printed below."""
        self._shown = []

    def _erase(self) -> None:
        if self._shown:
            print(f"\x1b[{len(self._shown)}F\x1b[J", end="")
        self._shown = []

    def _draw(self, lines: list[str]) -> None:
        if lines:
            print("\n".join(lines), flush=True)
        self._shown = lines

    def _paint(self, text: str, colour: str) -> str:
        return f"{colour}{text}{PLAIN}" if self._colours else text
