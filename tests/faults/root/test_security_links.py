"""Root's commands among links, which lead root nowhere."""

import os

import pytest
from faults.traps import try_every_command


def link(trap, own):
    trap.symlink_to(own / "own")


def link_to_what_is_not_there(trap, own):
    trap.symlink_to(own / "made-by-root")


def link_to_a_directory(trap, own):
    trap.symlink_to(own)


def hard_link(trap, own):
    os.link(own / "own", trap)


@pytest.mark.parametrize("trap", [link, link_to_what_is_not_there, link_to_a_directory, hard_link])
def test_every_command_of_root_among_traps_touches_nothing_outside(node, place, trap):
    try_every_command(node, place, trap)
