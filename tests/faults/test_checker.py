"""The checker can fail: each way of losing or spoiling a reading is planted, and must be found."""

import contextlib
import shutil
import sqlite3

import pytest
from checker import judge, unaccounted_ticks
from crash.node import running
from sinks import refuse
from waiting import wait_until

# A message that is SENT, and the same as the sink has it.
SENT = "(SELECT max(id) FROM message WHERE status = 'SENT')"
STORED = "(SELECT max(no) FROM received)"
DEAD = "SELECT count(*) FROM batch WHERE status = 'DEAD'"
PLANTED = {
    "a message that the sink has lost": ("sink", f"DELETE FROM received WHERE no = {STORED}"),
    "a value that was altered": ("sink", f"UPDATE received SET value = 7 WHERE no = {STORED}"),
    "another time": ("sink", f"UPDATE received SET timestamp = 'x' WHERE no = {STORED}"),
    "another node": ("sink", f"UPDATE received SET node = 'x' WHERE no = {STORED}"),
    "an id that was never captured": (
        "sink",
        f"UPDATE received SET id = 'stray-1' WHERE no = {STORED}",
    ),
    "copies that differ": (
        "sink",
        "INSERT INTO received (id, node, name, value, timestamp, body) SELECT id, node, name,"
        f" value, timestamp, 'other' FROM received WHERE no = {STORED}",
    ),
    "a message condemned by a sink that took no other": (
        "sink",
        "UPDATE request SET no = no + 1000000 WHERE CAST(body AS TEXT) LIKE '%bad%'",
    ),
    "a row that is gone": ("node", f"DELETE FROM message WHERE id = {SENT}"),
    "a row that says otherwise": (
        "node",
        f"UPDATE message SET status = 'DEAD' WHERE id = {SENT}",
    ),
    "a batch range that is missing": ("node", "DELETE FROM batch WHERE first_id = 1"),
    "a count that is wrong": ("node", "UPDATE tally SET n = n + 1 WHERE status = 'SENT'"),
    "drops that no event tells of": ("node", "INSERT INTO dropped VALUES ('late', 3)"),
    "two readings with one id": (
        "node",
        "INSERT INTO stream(first_id, name, wire_first, node)"
        " SELECT 3, name, wire_first, node FROM stream",
    ),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What is left of a run in which all went well, and some messages were rightly refused."""
    directory = tmp_path_factory.mktemp("run")
    refused = {"sensor:bad": {"source": "mock", "rate": 5}}
    with running(directory, sensor={"rate": 50}, **refused) as (node, sink):
        sink.behave(refuse(name="bad"))
        wait_until(lambda: node.one(DEAD) > 2, what="some messages are DEAD")
        node.stop()
    return {"node": node.database, "sink": sink.database}


def test_a_good_run_is_good(run):
    verdict = judge(run["node"], run["sink"])
    verdict.assert_good()
    assert verdict.captured == verdict.stored + verdict.dead + verdict.undelivered
    assert verdict.stored > 0
    assert verdict.dead > 2
    assert verdict.stored_twice == set()
    assert abs(unaccounted_ticks(run["node"], {"temperature": 50, "bad": 5})) < 1


@pytest.mark.parametrize("what", PLANTED)
def test_the_checker_finds(run, tmp_path, what):
    files = {name: shutil.copy(file, tmp_path / f"{name}.db") for name, file in run.items()}
    where, statement = PLANTED[what]
    with contextlib.closing(sqlite3.connect(files[where])) as connection, connection:
        assert connection.execute(statement).rowcount
    with pytest.raises(AssertionError):
        judge(files["node"], files["sink"]).assert_good()
