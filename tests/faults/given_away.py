"""A node whose files are another user's, and root's own file beside it: who leads whom where?"""

import contextlib
import hashlib
import os
import stat
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import pytest
from crash.node import Node
from sinks import SinkProcess

import sensor_node

NOBODY = 65534
SECRET = b"root only: s3cret\n"
PYTHON = "/usr/bin/python3"
SOURCE = Path(sensor_node.__file__).parents[1]


class OpenToAll(Node):
    """One whose program another user can read too: not all of this test's own need be so."""

    def command(self, *arguments):
        return [PYTHON, *super().command(*arguments)[1:]]

    def environment(self):
        path = os.pathsep.join([str(SOURCE), sysconfig.get_paths()["purelib"]])
        return super().environment() | {"PYTHONPATH": path}


@contextlib.contextmanager
def open_place():
    """A directory that everybody may enter; the others of a test are its user's alone."""
    if os.geteuid():
        pytest.skip("only root can be led to do what others may not")
    with tempfile.TemporaryDirectory(prefix="sensor-node-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@contextlib.contextmanager
def given_away_node(place):
    """One that has run, whose files are another user's now. Beside it there is root's own file."""
    own = place / "rootdir"
    own.mkdir(mode=0o755)
    (own / "own").write_bytes(SECRET)
    (own / "own").chmod(0o600)
    with SinkProcess(place) as sink, OpenToAll(place / "node", sink={"url": sink.url}) as node:
        node.file.parent.chmod(0o755)
        node.start()
        node.await_captured(5)
        node.stop()
        give_away(node)
        insist_on_others_reading(node)
        yield node


def insist_on_others_reading(node):
    become = ["setpriv", f"--reuid={NOBODY}", "--clear-groups"]
    program = [PYTHON, "-c", "import psutil, requests, sensor_node"]
    if subprocess.run([*become, *program], env=node.environment(), cwd="/").returncode:
        pytest.skip("this checkout, or its libraries, are not for other users")


def give_away(node):
    for name in (node.state, *node.state.iterdir()):
        os.chown(name, NOBODY, NOBODY, follow_symlinks=False)


def outside(place):
    """All that is not the node's: what a file is, whose, what it says and since when."""
    found = {}
    for name in sorted((place / "rootdir").rglob("*")):
        seen = name.lstat()
        text = hashlib.sha256(name.read_bytes()).hexdigest() if stat.S_ISREG(seen.st_mode) else ""
        found[name] = (
            seen.st_mode,
            seen.st_uid,
            seen.st_gid,
            seen.st_mtime_ns,
            text,
        )
    return found
