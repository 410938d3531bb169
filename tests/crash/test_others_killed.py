"""P2, P4: retrier, housekeeper, supervisor, and all at once, killed where it matters."""

import os
import signal

from crash import proc
from crash.node import assert_nothing_lost, await_hanging, running
from sinks import answer, hang, ok
from waiting import wait_until


def test_a_retrier_killed_in_a_probe_does_not_keep_the_sink_down(tmp_path):
    with running(tmp_path) as (node, sink):
        sink.behave(answer(503))
        wait_until(lambda: node.one("SELECT state FROM sink") == "DOWN", what="the sink is DOWN")
        on_their_way = "SELECT count(*) FROM batch WHERE owner LIKE 'sender:%'"
        wait_until(lambda: not node.one(on_their_way), what="no sender has a batch in hand")
        sink.behave(hang(store="before"))
        await_hanging(sink)
        owner = node.one("SELECT owner FROM batch WHERE status = 'SENDING'")
        assert owner.startswith("retrier:")
        retrier = node.kill("retrier")
        sink.behave(ok())
        node.await_running("retrier", instead_of=retrier)
        node.await_delivered()
        assert node.one("SELECT state FROM sink") == "UP"
        assert sink.repeated_ids()
        assert_nothing_lost(node, sink)


def test_a_retrier_killed_in_a_retry_leaves_the_batch_to_its_successor(tmp_path):
    with running(tmp_path, process={"senders": 1}) as (node, sink):
        sink.behave(hang(store="before"))
        await_hanging(sink)
        node.kill("sender-1")
        first = node.one("SELECT first_id FROM batch WHERE status = 'SENDING'")
        (message_id,) = node.wire_ids(f"id = {first}")
        wait_until(lambda: len(sink.copies(message_id)) == 2, what="the retrier has sent it again")
        retrier = node.kill("retrier")
        sink.behave(ok())
        sink.release()
        node.await_running("retrier", instead_of=retrier)
        node.await_delivered()
        assert len(sink.copies(message_id)) == 3
        assert_nothing_lost(node, sink)


def test_a_housekeeper_killed_in_a_checkpoint_damages_nothing(tmp_path):
    with running(tmp_path, sensor={"rate": 4000}, sink={"batch_size": 2000}) as (node, sink):
        pid = node.pids()["housekeeper"]
        proc.stop_in_the_act(pid, lambda: pid in proc.holders(node.shm, proc.WAL_CHECKPOINT))
        assert proc.holders(node.writer) == {pid}
        before = node.captured()
        os.kill(pid, signal.SIGKILL)
        node.await_running("housekeeper", instead_of=pid)
        node.await_captured(before + 1000)
        node.configure(sensor={"rate": 1})
        node.run("reload")
        assert_nothing_lost(node, sink)


def test_children_of_a_killed_supervisor_end_by_themselves_and_the_next_start_goes_on(tmp_path):
    with running(tmp_path) as (node, sink):
        node.await_captured(10)
        node.kill("supervisor")
        wait_until(lambda: not node.processes(), what="the children have ended")
        assert node.run("status", status=1).stdout
        assert node.status()["state"] == "dead"
        captured = node.captured()
        node.start()
        node.await_captured(captured + 10)
        assert_nothing_lost(node, sink)
        assert [event["kind"] for event in node.history()].count("unclean stop") == 1


def test_start_waits_for_the_orphans_of_a_killed_supervisor(tmp_path):
    with running(tmp_path, process={"senders": 1}) as (node, sink):
        node.await_delivered(5)
        sink.behave(hang(store="before"))
        await_hanging(sink)
        pids = node.pids()
        node.kill("supervisor")
        orphan = pids["sender-1"]
        wait_until(lambda: node.processes() == [orphan], what="all others have ended")
        sink.behave(ok())
        with node.background("start") as starting:
            said = starting.stdout.readline()
            assert said.endswith(f"processes of the last run: sender-1 (pid {orphan})\n")
            assert starting.poll() is None
            sink.release()
            said, _ = starting.communicate(timeout=60)
        assert (starting.returncode, said[:7]) == (0, "started")
        assert not proc.is_alive(orphan)
        node.await_delivered()
        # The orphan could still record its answer, so nothing went out twice.
        assert sink.repeated_ids() == set()
        assert_nothing_lost(node, sink)


def test_everything_killed_at_once_again_and_again_loses_nothing(tmp_path):
    with running(tmp_path, sensor={"rate": 200}) as (node, sink):
        for _ in range(2):
            node.await_captured(node.captured() + 50)
            committed = node.captured()
            node.kill_all()
            assert node.captured() >= committed
            node.start()
        assert_nothing_lost(node, sink)
