"""P3: the audit recounts rows, and says so when they are not what the ledger claims."""

import contextlib
import shutil
import sqlite3

import pytest
from crash.node import Node, running

TAMPERING = {
    "a row is gone": "DELETE FROM message WHERE id = 7",
    "a row too many": "INSERT INTO message(id, status, name, value, timestamp_us)"
    " SELECT 1000000, status, name, value, 0 FROM message"
    " WHERE id = 7",
    "a status is flipped": "UPDATE message SET status = 'FAILED' WHERE id = 7",
    "a tally is bumped": "UPDATE tally SET n = n + 1 WHERE status = 'SENT'",
    "two tallies are swapped": "UPDATE tally SET n = 10 - n WHERE status IN ('DEAD', 'IN_DOUBT')",
    "a batch range is gone": "DELETE FROM batch WHERE first_id = (SELECT min(first_id) FROM batch)",
    "a batch range is another's": "UPDATE batch SET last_id = last_id + 1 WHERE first_id ="
    " (SELECT min(first_id) FROM batch)",
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The database of a node that was stopped after it had delivered."""
    with running(tmp_path_factory.mktemp("stopped"), sensor={"rate": 100}) as (node, _):
        node.await_delivered(50)
        node.stop()
        yield node.database


@pytest.fixture
def copy(stopped, tmp_path):
    file = tmp_path / "copy.db"
    shutil.copyfile(stopped, file)
    return file


def test_a_sound_database_passes(copy, tmp_path):
    said = Node(tmp_path, storage={"path": copy}).run("audit").stdout
    assert said.endswith("audit: every reading is accounted for\n")


@pytest.mark.parametrize("statement", TAMPERING.values(), ids=TAMPERING)
def test_an_audit_fails_when(statement, copy, tmp_path):
    with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
        assert connection.execute(statement).rowcount
    said = Node(tmp_path, storage={"path": copy}).run("audit", status=1).stdout
    assert "wrong" in said.splitlines()[-1]
