"""What the figures depend on: this machine, and the Python and SQLite that run the node."""

import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.trial import PREFIX, ROOT, Unusable

# Debian's own, with Debian's libraries: what an installed node runs on.
SYSTEM_PYTHON = "/usr/bin/python3"
NEEDS = "3.11 or newer with requests, backoff and psutil"
PROBE = """
import json, sqlite3, sys
import backoff, psutil, requests
assert sys.version_info >= (3, 11)
found = {"python": sys.version.split()[0], "sqlite": sqlite3.sqlite_version}
print(json.dumps({**found, "requests": requests.__version__}))
"""
FSYNCS = 50


def software(python: str) -> dict[str, str]:
    """Versions of `python`, `sqlite` and `requests`; empty if it cannot run the node."""
    try:
        done = subprocess.run([python, "-P", "-c", PROBE], capture_output=True, text=True)
        return json.loads(done.stdout)
    except (OSError, ValueError):
        return {}


def choose_python(wanted: str) -> str:
    """The interpreter that is to run the node: `wanted`, the system's, or .venv's."""
    if wanted:
        if not software(wanted):
            raise Unusable(f"--python {wanted}: is no Python {NEEDS}; name another, or none")
        return wanted
    if software(SYSTEM_PYTHON):
        return SYSTEM_PYTHON
    python = str(ROOT / ".venv" / "bin" / "python")
    if not software(python):
        raise Unusable(f"{python}: is no Python {NEEDS}; run scripts/environment")
    return python


def describe() -> dict[str, Any]:
    place = Path(tempfile.gettempdir())
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()) or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "filesystem": filesystem(place, Path("/proc/self/mounts").read_text()),
        "fsync_ms": round(fsync_ms(), 3),
    }


def cpu_model(cpuinfo: str) -> str:
    """The first `model name`; ARM machines have none."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return ""


def filesystem(place: Path, mounts: str) -> str:
    """Type of the file system that `place` is on, by the text of /proc/mounts."""
    found = [line.split()[1:3] for line in mounts.splitlines()]
    above = {str(place.resolve()), *map(str, place.resolve().parents)}
    return max(((len(point), kind) for point, kind in found if point in above), default=(0, ""))[1]


def fsync_ms() -> float:
    """Median of a 4 KiB append and its fsync, where the benchmarks have their databases."""
    times = []
    with tempfile.NamedTemporaryFile(prefix=PREFIX) as file:
        for _ in range(FSYNCS):
            began = time.monotonic()
            os.write(file.fileno(), bytes(4096))
            os.fsync(file.fileno())
            times.append(1000 * (time.monotonic() - began))
    return statistics.median(times)


def check_room(need: int) -> None:
    """Raises Unusable if so many bytes are not free where the databases go."""
    place = tempfile.gettempdir()
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    if free < need:
        raise Unusable(
            f"{place}: has {free / 2**30:,.1f} GiB free and {need / 2**30:,.1f} GiB are needed; "
            "set TMPDIR to a larger disk, or give fewer --rows"
        )
