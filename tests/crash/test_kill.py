"""P2, P3, P4: real processes are killed at points that matter, and nothing is lost or doubled."""

import contextlib
import os
import random
import signal

import pytest
import sinks
from appliance import Appliance
from waiting import wait_until

from sensor_node.storage.write_lock import Unwatched, WriteLock


def assert_all_is_well(node: Appliance, sink: sinks.SinkProcess) -> None:
    """After the backlog has drained and the node has stopped."""
    wait_until(
        lambda: node.counts().get("captured", 0) > 0 and not sum_undelivered(node) > 50,
        60,
        "the backlog to drain",
        node.log,
    )
    node.ctl("stop")
    node.ctl("audit")
    stored = sink.stored_ids()
    stream = node.query("SELECT name FROM stream")[0][0]
    sent = node.query("SELECT id FROM message WHERE status = 'SENT'")
    assert {f"{stream}-{number}" for (number,) in sent} <= stored
    ids = [number for (number,) in node.query("SELECT id FROM message ORDER BY id")]
    assert ids == list(range(1, len(ids) + 1))
    assert not sink.differing_ids()


def sum_undelivered(node: Appliance) -> int:
    counts = node.counts()
    return sum(counts[key] for key in ("pending", "in_flight", "failed"))


@pytest.mark.parametrize("name", ["generator", "sender-1", "retrier", "housekeeper"])
def test_killing_a_process_loses_and_doubles_nothing(tmp_path, name) -> None:
    with sinks.SinkProcess(tmp_path) as sink, Appliance(tmp_path / "node", sink.url) as node:
        wait_until(lambda: sink.count() >= 20, 30, "readings at the sink", node.log)
        node.kill(name)
        before = sink.count()
        wait_until(lambda: sink.count() >= before + 20, 30, "delivery to go on", node.log)
        assert_all_is_well(node, sink)


def test_a_sender_killed_after_the_sink_stored_its_batch_repeats_the_same_ids(tmp_path) -> None:
    with sinks.SinkProcess(tmp_path) as sink, Appliance(tmp_path / "node", sink.url) as node:
        wait_until(lambda: sink.count() >= 5, 30, "readings at the sink", node.log)
        sink.behave(sinks.hang(store="before"))
        wait_until(lambda: node.counts()["in_flight"] > 0, 30, "a batch in flight", node.log)
        owners = "SELECT DISTINCT owner FROM batch WHERE status = 'SENDING'"
        for (owner,) in node.query(owners):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(owner.split(":")[2]), signal.SIGKILL)
        sink.behave(sinks.ok())
        sink.release()
        assert_all_is_well(node, sink)


def test_processes_killed_at_the_edge_of_a_transaction_lose_nothing(tmp_path) -> None:
    with sinks.SinkProcess(tmp_path) as sink, Appliance(tmp_path / "node", sink.url) as node:
        wait_until(lambda: sink.count() >= 5, 30, "readings at the sink", node.log)
        lock = WriteLock(node.database, Unwatched())
        with lock:
            pids = node.pids()
            for name in ("sender-1", "sender-2", "retrier", "housekeeper"):
                os.kill(pids[name], signal.SIGKILL)
        lock.close()
        wait_until(lambda: len(node.pids()) == len(pids), 30, "all processes", node.log)
        assert_all_is_well(node, sink)


def test_killing_everything_at_once_then_starting_loses_nothing(tmp_path) -> None:
    with sinks.SinkProcess(tmp_path) as sink, Appliance(tmp_path / "node", sink.url) as node:
        wait_until(lambda: sink.count() >= 20, 30, "readings at the sink", node.log)
        committed = node.counts()["captured"]
        for pid in [node.supervisor(), *node.pids().values()]:
            os.kill(pid, signal.SIGKILL)
        node.ctl("status", status=1)
        node.ctl("start")
        assert node.counts()["captured"] >= committed
        assert_all_is_well(node, sink)


def test_children_of_a_killed_supervisor_end_and_a_start_works(tmp_path) -> None:
    with sinks.SinkProcess(tmp_path) as sink, Appliance(tmp_path / "node", sink.url) as node:
        wait_until(lambda: sink.count() >= 5, 30, "readings at the sink", node.log)
        os.kill(node.supervisor(), signal.SIGKILL)
        node.ctl("start")
        assert_all_is_well(node, sink)


def test_a_storm_of_kills_loses_nothing(tmp_path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    with (
        sinks.SinkProcess(tmp_path) as sink,
        Appliance(tmp_path / "node", sink.url, rate=500) as node,
    ):
        for _ in range(15):
            pids = list(node.pids().values())
            for pid in dice.sample(pids, min(2, len(pids))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert_all_is_well(node, sink)


def test_at_most_once_never_repeats_and_asks(tmp_path) -> None:
    with (
        sinks.SinkProcess(tmp_path) as sink,
        Appliance(tmp_path / "node", sink.url, delivery="at-most-once") as node,
    ):
        wait_until(lambda: sink.count() >= 5, 30, "readings at the sink", node.log)
        sink.behave(sinks.hang(store="before"))
        wait_until(lambda: node.counts()["in_flight"] > 0, 30, "a batch in flight", node.log)
        for (owner,) in node.query("SELECT DISTINCT owner FROM batch WHERE status = 'SENDING'"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(owner.split(":")[2]), signal.SIGKILL)
        sink.behave(sinks.ok())
        sink.release()
        wait_until(lambda: node.counts()["in_doubt"] > 0, 30, "messages in doubt", node.log)
        assert_all_is_well(node, sink)
        assert not sink.repeated_ids()


def test_audit_notices_what_was_tampered_with(tmp_path) -> None:
    import sqlite3

    with sinks.SinkProcess(tmp_path) as sink, Appliance(tmp_path / "node", sink.url) as node:
        wait_until(lambda: sink.count() >= 20, 30, "readings at the sink", node.log)
        node.ctl("stop")
        node.ctl("audit")
        for statement in (
            "DELETE FROM message WHERE id = 3",
            "UPDATE message SET status = 'DEAD' WHERE id = 4",
            "UPDATE tally SET n = n + 1 WHERE status = 'SENT'",
        ):
            with contextlib.closing(sqlite3.connect(node.database)) as connection:
                connection.execute("BEGIN")
                connection.execute(statement)
                connection.commit()
            assert "wrong" in node.ctl("audit", status=1)
