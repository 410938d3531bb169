"""Lets the kernel run programs of an ARM by qemu-user. What was not so before is undone."""

import contextlib
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

MOUNT = Path("/proc/sys/fs/binfmt_misc")
FORMATS = Path("/usr/lib/binfmt.d")
NAMES = {"arm64": "qemu-aarch64", "armhf": "qemu-arm"}


@contextlib.contextmanager
def registered(architectures: Iterable[str]) -> Iterator[None]:
    with contextlib.ExitStack() as undoing:
        if not (MOUNT / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(MOUNT)], check=True)
            undoing.callback(subprocess.run, ["umount", str(MOUNT)], check=True)
        for name in map(NAMES.__getitem__, architectures):
            entry = MOUNT / name
            if not entry.exists():
                (MOUNT / "register").write_bytes((FORMATS / f"{name}.conf").read_bytes())
                undoing.callback(entry.write_text, "-1")
        yield
