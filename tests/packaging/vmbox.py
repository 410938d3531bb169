"""The box of box.py in a virtual machine: what costs much under emulation is asked more cheaply."""

import contextlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import image
import vm
from box import SERVICE, Box
from waiting import wait_until

REPORT = "/run/sensor-node/processes.json"
CGROUP = f"/sys/fs/cgroup/system.slice/{SERVICE}.service"
CHILDREN = ("generator", "sender-1", "sender-2", "retrier", "housekeeper")
# The promise is 3 s, on hardware.
BACK_SECONDS = 60.0
# Fields of /proc/PID/stat behind the name: utime and stime.
TIMES = slice(11, 13)
TICKS_A_SECOND = 100


class Usage(NamedTuple):
    """Of one process: seconds of CPU since its start, proportional memory in MiB."""

    cpu_seconds: float
    pss_mib: float


class VmBox(Box):
    machine: vm.Machine

    def __init__(self, machine: vm.Machine) -> None:
        self.machine = machine
        self.run = machine.run

    def write(self, file: str, text: str, mode: int = 0o640) -> None:
        quoted = shlex.quote(text)
        self.run(f"mkdir -p $(dirname {file}) && printf %s {quoted} >{file}")
        self.run(f"chmod {mode:o} {file} && chgrp sensor-node {file}")

    def pids(self) -> dict[str, int]:
        told = self.run(["cat", REPORT], check=False).stdout
        children = json.loads(told)["processes"] if told else []
        found = {one["name"]: one["pid"] for one in children if one["state"] == "RUNNING"}
        return {"supervisor": self.main_pid(), **found}

    def captured(self) -> int:
        with contextlib.suppress(AssertionError):  # not made yet
            return int(self.query("SELECT coalesce(max(id), 0) FROM message")[0][0])
        return 0

    def await_replaced(self, before: dict[str, int], *names: str) -> None:
        """Wait until these processes, and all others, are RUNNING; these with other pids."""

        def replaced() -> bool:
            now = self.pids()
            others = all(now.get(name) not in (None, before[name]) for name in names)
            return others and {"supervisor", *CHILDREN} <= now.keys()

        what = f"{names} are replaced, all are running"
        wait_until(replaced, BACK_SECONDS, what, self.story)

    def stop_sink(self) -> None:
        self.run("systemctl stop sink")

    def usage(self) -> dict[str, Usage]:
        """Of each process, by name."""
        return {name: self._usage(pid) for name, pid in self.pids().items()}

    def _usage(self, pid: int) -> Usage:
        stat = self.run(f"cat /proc/{pid}/stat").stdout.rpartition(")")[2].split()
        ticks = sum(map(int, stat[TIMES]))
        pss_kib = self.run(f"awk '/^Pss:/ {{print $2}}' /proc/{pid}/smaps_rollup").stdout
        return Usage(ticks / TICKS_A_SECOND, int(pss_kib) / 1024)


@contextlib.contextmanager
def booted(deb: Path, directory: Path) -> Iterator[VmBox]:
    """With the package, in a machine of which nothing stays."""
    with vm.booted(image.build(deb), directory) as machine:
        made = VmBox(machine)
        try:
            yield made
        except BaseException:
            with contextlib.suppress(Exception):  # the machine may be what failed
                print(made.story())
            raise
