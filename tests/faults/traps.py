"""Root's commands, with a trap in the place of each of the node's files: who is caught?"""

import os
import shutil
import stat

from crash.node import STATE_FILES
from faults.given_away import NOBODY, outside

COMMANDS = (
    "status",
    "check",
    "messages",
    "history",
    "audit",
    "requeue --dead",
    "stop",
    "reload",
    "start",
    "stop",
)


def try_every_command(node, place, trap):
    """`trap(file, own)` is in the place of each of the node's files in its turn."""
    own = place / "rootdir"
    for name in STATE_FILES:
        file, aside = node.state / name, node.state / "aside"
        if file.exists():
            file.rename(aside)
        trap(file, own)
        # A hard link is root's own file.
        if not stat.S_ISREG(file.lstat().st_mode):
            os.chown(file, NOBODY, NOBODY, follow_symlinks=False)
        before = outside(place)
        for command in COMMANDS:
            done = node.run(*command.split(), status=None)
            assert "s3cret" not in done.stdout + done.stderr
        assert outside(place) == before, name
        node.run("stop", status=None)
        remove(file)
        if aside.exists():
            aside.rename(file)
    node.start()
    node.await_delivered()


def remove(file):
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)
