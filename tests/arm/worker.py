"""All that is tried on one architecture, in a process of its own, which tells of each step."""

import os
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from arm import carried, machine, units
from arm.trial import Trial
from vmbox import VmBox

BOOT, UNITS = "boots", "unit and property tests"


class Told(NamedTuple):
    """Of one step on one architecture: its figures if it went well, else what was wrong."""

    name: str
    step: str
    good: bool
    text: str
    seconds: float


class Luggage(NamedTuple):
    """What every guest is given: a tar archive, and what is in the database that is in it."""

    archive: Path
    written: carried.Written


class Worker:
    def __init__(self, name: str, luggage: Luggage, directory: Path, teller: Connection) -> None:
        self.name = name
        self.arm = machine.ARMS[name]
        self.luggage = luggage
        self.directory = directory
        self.teller = teller

    def work(self, *, units_first: bool) -> None:
        """Of two, one is in its virtual machine while the other runs the unit tests."""
        os.setsid()
        self.directory.mkdir()
        parts = [self._in_machine, self._units]
        try:
            for part in reversed(parts) if units_first else parts:
                part()
        except KeyboardInterrupt:  # the time is over; what was mounted is unmounted by now
            sys.exit(1)

    def _in_machine(self) -> None:
        began = time.monotonic()
        try:
            with machine.booted(self.arm, self.directory, self.luggage.archive) as booted:
                boot = f"in {booted.boot_seconds:.0f} s"
                self._tell(BOOT, time.monotonic() - began, boot)
                trial = Trial(VmBox(booted), self.luggage.written, self.directory)
                for step, act in trial.steps():
                    self._try(step, act)
        except Exception:
            self._tell(BOOT, time.monotonic() - began, traceback.format_exc(), good=False)

    def _units(self) -> None:
        self._try(UNITS, lambda: units.run(self.arm, self.directory / "units.log"))

    def _try(self, step: str, act: Callable[[], str]) -> None:
        began = time.monotonic()
        try:
            text, good = act(), True
        except Exception:
            text, good = traceback.format_exc(), False
        self._tell(step, time.monotonic() - began, text, good=good)

    def _tell(self, step: str, seconds: float, text: str, *, good: bool = True) -> None:
        self.teller.send(Told(self.name, step, good, text, seconds))
