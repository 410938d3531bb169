"""The package under test, and variants of it: another version, other contents."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).parents[2]
LEFT = shutil.ignore_patterns(
    ".*", "dist", "build", "__pycache__", "*.egg-info", "sensor-node-data"
)
VERSION = re.compile("^Version: .*$", re.MULTILINE)
MODULES = "usr/lib/python3/dist-packages/sensor_node"
OWN_VERSION = re.compile('^__version__ = ".*"$', re.MULTILINE)


def current() -> Path:
    """$SENSOR_NODE_DEB, else what scripts/build-deb left in dist/."""
    if named := os.environ.get("SENSOR_NODE_DEB"):
        return Path(named).resolve()
    found = sorted((SOURCE / "dist").glob("sensor-node_*_all.deb"))
    assert found, "no package in dist/; make one: scripts/build-deb"
    return found[-1]


def checkout(to: Path) -> None:
    """This source tree without what tests and builds leave in it."""
    shutil.copytree(SOURCE, to, ignore=LEFT, symlinks=True)


def variant(
    deb: Path, directory: Path, version: str, change: Callable[[Path], None] | None = None
) -> Path:
    """The package under another version; `change` may edit its unpacked tree before."""
    tree, made = directory / version, directory / f"sensor-node_{version}_all.deb"
    subprocess.run(["dpkg-deb", "-R", str(deb), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(VERSION.sub(f"Version: {version}", control.read_text()))
    own = tree / MODULES / "__init__.py"
    own.write_text(OWN_VERSION.sub(f'__version__ = "{version}"', own.read_text()))
    if change:
        change(tree)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", str(tree), str(made)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return made


def version_of(deb: Path) -> str:
    done = subprocess.run(["dpkg-deb", "-f", str(deb), "Version"], capture_output=True, text=True)
    return done.stdout.strip()


def prepend(script: Path, lines: str) -> None:
    """Have a maintainer script, which need not exist, begin with these lines."""
    text = script.read_text().removeprefix("#!/bin/sh\n") if script.exists() else ""
    script.write_text(f"#!/bin/sh\n{lines}\n{text}")
    script.chmod(0o755)
