"""A box under load whose power fails, and what is found on its disk afterwards."""

import contextlib
import random
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import sinks
from image import Image
from nbd import Disk
from vm import SINK_ADDRESS, SINK_PORT, Machine
from waiting import wait_until

DATABASE = "var/lib/sensor-node/telemetry.db"
CONFIG = f"""[node]
id = edge-01
[sensor:temperature]
source = mock
rate = {{rate}}
[sensor:pressure]
source = mock
rate = {{rate}}
[sensor:humidity]
source = mock
rate = {{rate}}
[storage]
min_free = 0
[sink]
url = http://{SINK_ADDRESS}:{SINK_PORT}/telemetry
[retry]
initial_delay = 100ms
max_delay = 2s
"""
LOAD = CONFIG.format(rate=100)
# Nothing more is captured, so that delivery can come to its end.
QUIET = CONFIG.format(rate="1/h")
# Of capture that goes on; the power fails up to so many seconds, and writes, later.
UNDER_LOAD = 150
MOST_SECONDS = 5.0
MOST_WRITES = 200
# What the sink does between two cuts: mostly it works.
MOODS = (sinks.ok(), sinks.ok(), sinks.delay(0.5), sinks.answer(503))


class Found(NamedTuple):
    """What is on the disk. `wire` are the ids on the wire of all, `sent` of what is marked SENT."""

    integrity: str
    ids: list[int]
    wire: set[str]
    sent: set[str]
    audit: subprocess.CompletedProcess[str] | None


class Cut(NamedTuple):
    """`reported`: the highest id that the guest said was committed, heard outside."""

    how: str
    reported: int
    found: Found

    @property
    def lost(self) -> int:
        """Committed readings that are gone."""
        return self.reported - sum(number <= self.reported for number in self.found.ids)


class FailingBox:
    """`with FailingBox(image, directory, rng) as box: box.cut()`: one disk, a sink, many boots."""

    def __init__(self, image: Image, directory: Path, rng: random.Random) -> None:
        self._image, self._directory, self._rng = image, directory, rng
        self._file = directory / "disk"
        self._captured = 0
        self._closing = contextlib.ExitStack()
        self._closing.callback(self._file.unlink, missing_ok=True)
        _copy(image.disk, self._file)
        self._disk = self._closing.enter_context(Disk(self._file, directory / "nbd.sock"))
        self.sink = self._closing.enter_context(sinks.SinkProcess(directory))

    def boot(self) -> Machine:
        drive, port = self._disk.drive, self.sink.port
        return Machine(self._image, self._directory / "vm", disk=drive, sink_port=port)

    def cut(self, prepare: str = "") -> Cut:
        """Boot, capture and deliver, fail at some moment; the disk stays as that has left it."""
        mood = self._rng.choice(MOODS)
        self.sink.behave(mood)
        delivered = self.sink.count() if mood.status == 200 else -1
        with self.boot() as vm:
            vm.run(prepare or "true")
            loaded = self._captured + UNDER_LOAD
            wait_until(lambda: vm.reported >= loaded, 60, "capture is under load", vm.story)
            wait_until(lambda: self.sink.count() > delivered, 60, "delivery goes on", vm.story)
            how = self._await_moment()
            reported = vm.kill()
            kept = self._disk.cut(self._rng)
        found = self._look()
        self._captured = len(found.ids)
        return Cut(f"sink {mood.status} in {mood.delay:g} s, cut {how}, {kept}", reported, found)

    def _await_moment(self) -> str:
        """Some time, or some time and then a write after which the disk takes no other.

        A system that does not flush writes seldom, and may never come to that write.
        """
        seconds = self._rng.uniform(0, MOST_SECONDS)
        time.sleep(seconds)
        if self._rng.random() < 0.5:
            return f"after {seconds:.1f} s"
        writes = self._rng.randint(1, MOST_WRITES)
        self._disk.fail_after(writes)
        failed = self._disk.failed.wait(MOST_SECONDS)
        return f"after {seconds:.1f} s and {'' if failed else 'less than '}{writes} writes"

    def _look(self) -> Found:
        """At a copy: looking replays journals."""
        with _mounted(self._file, self._directory) as root:
            try:
                return _read(root)
            except sqlite3.DatabaseError as error:
                return Found(str(error), [], set(), set(), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.close()


def _read(root: Path) -> Found:
    with contextlib.closing(sqlite3.connect(root / DATABASE)) as connection:
        integrity = connection.execute("PRAGMA integrity_check").fetchone()[0]
        streams = connection.execute("SELECT first_id, name, wire_first FROM stream").fetchall()
        rows = connection.execute("SELECT id, status FROM message ORDER BY id").fetchall()
    ids = [number for number, _ in rows]
    named = {number: _wire_id(streams, number) for number in ids}
    sent = {named[number] for number, status in rows if status == "SENT"}
    audit = subprocess.run(
        ["chroot", str(root), "sensor-node-ctl", "audit"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return Found(integrity, ids, set(named.values()), sent, audit)


def _wire_id(streams: list[tuple[int, str, int]], number: int) -> str:
    first, name, wire_first = max(stream for stream in streams if stream[0] <= number)
    return f"{name}-{number - first + wire_first}"


@contextlib.contextmanager
def _mounted(disk: Path, directory: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=directory) as place:
        image, root = Path(place) / "disk", Path(place) / "root"
        _copy(disk, image)
        root.mkdir()
        subprocess.run(["mount", "-o", "loop", str(image), str(root)], check=True)
        try:
            yield root
        finally:
            subprocess.run(["umount", str(root)], check=True)


def _copy(disk: Path, to: Path) -> None:
    command = ["cp", "--reflink=auto", "--sparse=always", str(disk), str(to)]
    subprocess.run(command, check=True)
