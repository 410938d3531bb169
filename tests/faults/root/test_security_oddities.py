"""Root's commands among pipes, directories and devices, where the node's files should be."""

import os
import stat

import pytest
from faults.traps import try_every_command


def pipe(trap, own):
    os.mkfifo(trap)


def directory(trap, own):
    trap.mkdir()


def device(trap, own):
    os.mknod(trap, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: without an end


@pytest.mark.parametrize("trap", [pipe, directory, device])
def test_every_command_of_root_among_traps_touches_nothing_outside(node, place, trap):
    try_every_command(node, place, trap)
