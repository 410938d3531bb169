"""Small disks of a test's own, others who fill them, and what the kernel says of who uses them."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest
from checker import Verdict, judge
from crash.node import Node
from sinks import SinkProcess
from waiting import wait_until

MIB = 1024 * 1024
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Of a process that tries again once a second; one that spins uses all of a CPU.
MOST_CPU_SHARE = 0.4
# Of every process the same line is written once a minute at most.
MOST_LOG_LINES = 40
PLENTY = 1 << 30

needs_disks = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.ext4") is None,
    reason="mounting a disk needs root and mkfs.ext4 (e2fsprogs)",
)
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing")


class Disk:
    """An ext4 of a few MiB in a file."""

    def __init__(self, path: Path, image: Path) -> None:
        self.path, self._image = path, image
        self._others = path / "others"

    def mount(self) -> None:
        command = ["mount", "-o", "loop,errors=remount-ro", self._image, self.path]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")

    def unmount(self) -> None:
        done = subprocess.run(["umount", self.path], capture_output=True)
        if done.returncode:
            subprocess.run(["umount", "-l", self.path], capture_output=True)
        # Who makes a mount namespace meanwhile, as other tests do, has a copy of the mount in it,
        # and the kernel keeps the file system, with its errors, until the last copy is gone.
        wait_until(lambda: not self._copies(), 30, "nobody has the disk mounted")

    def _copies(self) -> list[str]:
        """Of the processes that have a copy of the mount, which is taken from them."""
        holders = [pid for pid in os.listdir("/proc") if pid.isdigit() and self._has_copy(pid)]
        for pid in holders:
            command = ["nsenter", "--mount", f"--target={pid}", "umount", "-l", self.path]
            subprocess.run(command, capture_output=True)
        return holders

    def _has_copy(self, pid: str) -> bool:
        with contextlib.suppress(OSError):
            return f" {self.path} " in Path(f"/proc/{pid}/mountinfo").read_text()
        return False

    def device(self) -> str:
        """Such as 7:0."""
        number = self.path.stat().st_dev
        return f"{os.major(number)}:{os.minor(number)}"

    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self) -> None:
        """Others take all that is left, to the last byte, at once.

        ext4 reserves more than it needs until what was written is on the disk: so once more then.
        """
        with self._others.open("ab", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, MIB)
            while self._write(file):
                os.fsync(file)

    @staticmethod
    def _write(file: FileIO) -> bool:
        """Whether there was room for a byte at least."""
        before = file.tell()
        for size in (1024, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    continue
        return file.tell() > before

    def leave(self) -> None:
        """The others are gone."""
        self._others.unlink()

    def fail(self) -> None:
        """As if the card had given wrong data for something of the file system's own."""
        name = Path(f"/sys/dev/block/{self.device()}").resolve().name
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("test")


@contextlib.contextmanager
def disk(path: Path, mib: int) -> Iterator[Disk]:
    """A new one of so many MiB, mounted there until the end."""
    path.mkdir(parents=True)
    image = path.with_name(f"{path.name}.image")
    with image.open("wb") as file:
        file.truncate(mib * MIB)
    options = ("-m", "0", "-b", "1024", "-J", "size=1")
    subprocess.run(["mkfs.ext4", "-q", "-F", *options, image], check=True, capture_output=True)
    one = Disk(path, image)
    one.mount()
    try:
        yield one
    finally:
        one.unmount()


@contextlib.contextmanager
def injected(pids: list[int], *options: str) -> Iterator[None]:
    """System calls of these processes fail or wait as strace's options say, until the end."""
    attached = [argument for pid in pids for argument in ("-p", str(pid))]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", *options, *attached]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        try:
            traced = f"\nTracerPid:\t{tracer.pid}\n"
            wait_until(
                lambda: all(traced in status(pid) for pid in pids) or tracer.poll() is not None,
                what="strace is attached",
            )
            if tracer.poll() is not None:
                pytest.skip(f"strace cannot attach here: {tracer.stderr and tracer.stderr.read()}")
            yield
        finally:
            tracer.send_signal(signal.SIGTERM)


def status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def cpu_seconds(pid: int) -> float:
    """User and system time of the process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def rss_bytes(pid: int) -> int:
    line = next(one for one in status(pid).splitlines() if one.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def first_us(node: Node) -> int:
    """When the first reading was taken of the sensor that never bursts."""
    node.await_captured(1)
    return int(node.one("SELECT timestamp_us FROM message WHERE name = 'temperature' LIMIT 1"))


def problem_of(node: Node, what: str) -> dict[str, str]:
    """Wait until `status` has a problem that says so."""

    def told() -> list[dict[str, str]]:
        return [one for one in node.status()["problems"] if what in one["what"]]

    return wait_until(told, 60, f"status says {what}", node.story)[0]


def assert_nobody_died(node: Node, pids: dict[str, int]) -> None:
    """The processes are those of before, and the log is short."""
    assert node.pids() == pids
    assert node.log().count("storage_unavailable") <= MOST_LOG_LINES


def accounted_ticks(node: Node, first_us: int) -> tuple[float, int]:
    """Of the one sensor, from its first reading on: ticks that were due, and what came of them."""
    last_us = node.one("SELECT max(timestamp_us) FROM message")
    dropped_us = node.one("SELECT coalesce(max(last), 0) FROM event WHERE kind = 'dropped'")
    ticks = (max(last_us, dropped_us) - first_us) / 1e6 * node.rate + 1
    captured = node.one("SELECT seq FROM sqlite_sequence WHERE name = 'message'")
    return ticks, captured + node.dropped()


def assert_every_tick_is_accounted_for(node: Node, first_us: int) -> None:
    ticks, accounted = accounted_ticks(node, first_us)
    # The ends of a range of drops are wall times, read one clock after the other.
    assert abs(ticks - accounted) <= 1, (ticks, accounted)


def delivered(node: Node, sink: SinkProcess) -> Verdict:
    """Wait until the sink has everything, stop and judge."""
    left = "SELECT count(*) FROM message WHERE status != 'SENT'"
    wait_until(lambda: node.one(left) == 0, 90, "everything is delivered", node.story)
    node.stop()
    assert node.processes() == []
    said = node.run("audit", status=None)
    assert said.returncode == 0, said.stdout
    verdict = judge(node.database, sink.database)
    print(verdict)
    verdict.assert_good()
    return verdict
