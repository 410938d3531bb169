"""The node that is tortured, its sink, its small disk, and what is wrong with them now."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from crash import proc
from crash.node import Node
from sinks import SinkProcess, ok
from waiting import wait_until

from .plan import ODD

SENSORS: dict[str, dict[str, object]] = {
    "sensor": {"source": "mock", "rate": 100},
    "sensor:pressure": {"source": "mock", "rate": 20, "waveform": "random-walk", "noise": 0.1},
    f"sensor:{ODD}": {"source": "mock", "rate": 2, "waveform": "constant"},
    "sensor:memory": {"source": "host", "rate": 2, "metric": "memory"},
    "sensor:script": {"source": "command", "rate": 0.5},
}
RATES = {name.rpartition(":")[2]: float(str(one["rate"])) for name, one in SENSORS.items()}
# It leaves something behind, in whose command line the node's directory is to be found.
SCRIPT = "sh -c 'sleep 86399; :' {} & echo 5"
RATES["temperature"] = RATES.pop("sensor")
SECTIONS: dict[str, dict[str, object]] = {
    "storage": {"max_size": "400MiB", "min_free": 0},
    "sink": {"batch_size": 50, "timeout": "1s"},
    "retry": {"initial_delay": "50ms", "max_delay": "1s"},
    "process": {"senders": 2, "stop_timeout": "5s"},
    "log": {"level": "info"},
}
DISK_BYTES = 768 * 1024**2
# What `sensor-node-ctl` may answer in a world like this, a traceback never; or it was killed too.
EXITS = (0, 1, 3, 4, 78, -9)
# A fault may show this much later: in what `start` says that waits for orphans.
AFTER_SECONDS = 20.0
COMMAND_SECONDS = 120.0


class Job(NamedTuple):
    """A command line that runs beside the rest; not `ours`: another program's."""

    command: str
    ours: bool
    process: "subprocess.Popen[bytes]"
    output: Path
    began: float


class Fault(NamedTuple):
    """`mend` ends it, at a monotonic time."""

    what: str
    end: float
    mend: Callable[[], object]


class Victim:
    """One node. Nothing here waits, but `wait`."""

    def __init__(self, name: str, directory: Path, sink: SinkProcess) -> None:
        self.directory = directory
        self.sink = sink
        script = {**SENSORS["sensor:script"], "command": SCRIPT.format(directory)}
        target = {**SECTIONS["sink"], "url": sink.url, "delivery": name}
        sections = {**SENSORS, **SECTIONS, "sensor:script": script, "sink": target}
        self.node = Node(directory / "node", **sections)
        self.name = name
        self.kills: Counter[str] = Counter()
        self.reloads = 0
        self.complaints: list[str] = []
        self.disk: Path | None = None
        # By sensor: times of readings in microseconds, also of those that are evicted since.
        self.readings: dict[str, set[int]] = {name: set() for name in RATES}
        self._remembered = 0
        self._faults: list[Fault] = []
        self._jobs: list[Job] = []
        self._outputs = 0
        self._trouble_until = 0.0
        self._start_at = self._supervisor_killed_at = 0.0

    # Processes

    def alive(self) -> dict[str, int]:
        """By name, the processes of this node that live, as far as its report knows them."""
        try:
            report = self.node.report()
        except (FileNotFoundError, ValueError):
            return {}
        told = {child["name"]: child["pid"] for child in report["processes"]}
        told["supervisor"] = report["pid"]
        ours = set(self.node.processes())
        return {name: pid for name, pid in told.items() if pid in ours}

    def kill(self, name: str, pid: int) -> None:
        """`others`: what no report knows of yet; it may be a supervisor."""
        with contextlib.suppress(ProcessLookupError):
            proc.send(pid, signal.SIGKILL)
            self.kills[name.partition("-")[0]] += 1
            if name in ("supervisor", "others"):
                self._supervisor_killed_at = time.monotonic()

    def send(self, pid: int, number: int) -> None:
        """A signal, if the process still is one of this node."""
        if pid in self.node.processes():
            with contextlib.suppress(ProcessLookupError):
                proc.send(pid, number)

    # Commands

    def ctl(self, *arguments: str) -> None:
        """sensor-node-ctl, beside the rest."""
        self.reloads += arguments[0] == "reload"
        self._spawn(self.node.command(*arguments), " ".join(arguments), ours=True)

    def _spawn(self, command: Sequence[str], called: str, *, ours: bool) -> None:
        self._outputs += 1
        output = self.directory / f"output-{self._outputs}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                env=self.node.environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._jobs.append(Job(called, ours, process, output, time.monotonic()))

    def runs(self, called: str) -> bool:
        return any(job.command == called for job in self._jobs)

    def hold(self, program: str, seconds: float, what: str) -> None:
        """Another program, in Python, that holds something for so long."""
        command = [sys.executable, "-c", program, str(self.node.database), str(seconds)]
        self._spawn(command, what, ours=False)
        self.fault(what, seconds, lambda: None)

    # Readings

    def remember(self) -> bool:
        """Note what was captured since the last time, before a full disk may cost it.

        False where the database cannot be read just now.
        """
        query = "SELECT id, name, timestamp_us FROM message WHERE id > ? ORDER BY id"
        try:
            found = self.node.rows(query, self._remembered)
        except sqlite3.OperationalError:
            return False
        for number, name, us in found:
            self.readings[name].add(us)
            self._remembered = number
        return True

    # Faults

    def fault(self, what: str, seconds: float, mend: Callable[[], object]) -> None:
        self._faults.append(Fault(what, time.monotonic() + seconds, mend))

    def suffers(self, what: str) -> bool:
        return any(fault.what == what for fault in self._faults)

    def is_troubled(self) -> bool:
        """Whether a fault lasts, or has ended only just now, so that a start may fail."""
        return bool(self._faults) or time.monotonic() < self._trouble_until

    def end_faults(self, *, all_of_them: bool = False) -> None:
        now = time.monotonic()
        for fault in list(self._faults):
            if all_of_them or now >= fault.end:
                self._faults.remove(fault)
                fault.mend()
                self._trouble_until = now + AFTER_SECONDS

    # Time

    def wait(self, seconds: float) -> None:
        """Meanwhile faults end, commands end, and a node whose supervisor is gone is started."""
        end = time.monotonic() + seconds
        while True:
            self.end_faults()
            self._end_jobs()
            self._keep_running()
            if self.suffers("disk full"):
                self.remember()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.02, left))

    def finish_jobs(self) -> None:
        def done() -> bool:
            self._end_jobs()
            return not self._jobs

        wait_until(done, COMMAND_SECONDS, "all commands have ended")

    def _end_jobs(self) -> None:
        for job in list(self._jobs):
            if job.process.poll() is None and time.monotonic() < job.began + COMMAND_SECONDS:
                continue
            self._jobs.remove(job)
            if job.process.poll() is None:
                job.process.kill()
                job.process.wait()
                self.complaints.append(f"{job.command}: no end within {COMMAND_SECONDS:g} s")
            if job.ours:
                self._judge(job)
            job.output.unlink()

    def _judge(self, job: Job) -> None:
        said, status = job.output.read_text(errors="replace"), job.process.returncode
        if "Traceback" in said or status not in EXITS:
            self.complaints.append(f"{job.command}: exit {status}: {said}")
        died = job.process.returncode < 0 or self._supervisor_killed_at > job.began
        if job.command == "start" and status and not died and not self.is_troubled():
            self.complaints.append(f"start failed, and nothing was wrong: {said}")
        if "things are wrong" in said:
            self.complaints.append(f"audit: {said}")

    def _keep_running(self) -> None:
        now = time.monotonic()
        if now < self._start_at or self.runs("start") or self.runs("restart"):
            return
        if "supervisor" not in self.alive():
            self.ctl("start")
            self._start_at = now + 0.5

    # The end of a phase

    def calm_down(self, tell: Callable[[str], None]) -> None:
        """End every fault; then the node must start, take its first configuration, and stop."""
        self.end_faults(all_of_them=True)
        self.sink.behave(ok())
        self.sink.release()
        for pid in self.node.processes():
            self.send(pid, signal.SIGCONT)
        self.finish_jobs()
        self.node.configure(sink=SECTIONS["sink"], process=SECTIONS["process"])
        for command in ("start", "reload", "stop"):
            done = self.node.run(command, status=None)
            tell(f"calm: {command}: {done.stdout.rstrip()}")
            if done.returncode:
                self.complaints.append(f"calm: {command}: exit {done.returncode}: {done.stderr}")


@contextlib.contextmanager
def victim(name: str, directory: Path) -> Iterator[Victim]:
    """A node that is still to be started, on a disk of its own if that can be made."""
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(SinkProcess(directory))
        one = Victim(name, directory, sink)
        if not why_no_disk():
            one.disk = stack.enter_context(small_disk(directory / "disk.img", one.node.state))
        stack.callback(one.node.kill_all)
        yield one


def why_no_disk() -> str:
    """Why none can be made here; nothing if one can."""
    if os.geteuid():
        return "only root can mount one"
    return "" if shutil.which("mkfs.ext4") else "mkfs.ext4 is missing: apt-get install e2fsprogs"


@contextlib.contextmanager
def small_disk(image: Path, place: Path) -> Iterator[Path]:
    """A file system of its own at `place`, which can be filled up."""
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    place.mkdir(parents=True)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        wait_until(lambda: unmounted(place), what=f"{place} is unmounted")


def unmounted(place: Path) -> bool:
    return subprocess.run(["umount", str(place)], capture_output=True).returncode == 0
