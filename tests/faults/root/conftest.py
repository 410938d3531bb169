"""For the tests of root's commands: a node whose files are another user's."""

import pytest
from faults.given_away import given_away_node, open_place


@pytest.fixture
def place():
    with open_place() as place:
        yield place


@pytest.fixture
def node(place):
    with given_away_node(place) as node:
        yield node
