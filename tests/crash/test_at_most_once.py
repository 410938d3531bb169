"""P4: with at-most-once no message is ever sent twice, unless a person says so."""

from crash.node import assert_nothing_lost, await_hanging, running
from sinks import hang
from waiting import wait_until

AT_MOST_ONCE = {"delivery": "at-most-once"}


def test_what_a_killed_sender_had_in_hand_is_in_doubt_until_a_person_requeues_it(tmp_path):
    with running(tmp_path, sink=AT_MOST_ONCE, process={"senders": 1}) as (node, sink):
        node.await_delivered(5)
        sink.script(hang(store="before"))
        await_hanging(sink)
        node.kill("sender-1")
        wait_until(lambda: node.wire_ids("status = 'IN_DOUBT'"), what="messages are IN_DOUBT")
        doubtful = node.wire_ids("status = 'IN_DOUBT'")
        # Others go on, these do not.
        sent = sink.count()
        wait_until(lambda: sink.count() > sent + 20, what="later messages are delivered")
        assert doubtful <= sink.stored_ids()
        assert sink.repeated_ids() == set()
        assert any("fate" in problem["what"] for problem in node.status()["problems"])
        said = node.run("requeue", "--in-doubt").stdout
        assert said.startswith(f"requeued {len(doubtful)} message")
        node.await_delivered()
        assert sink.repeated_ids() == doubtful
        assert_nothing_lost(node, sink)


def test_killing_everything_in_the_middle_of_requests_repeats_none_of_them(tmp_path):
    with running(tmp_path, sink=AT_MOST_ONCE, sensor={"rate": 100}) as (node, sink):
        node.await_delivered(20)
        sink.script(hang(store="before"), hang(store="no"))
        await_hanging(sink, 2)
        node.kill_all()
        sending = "SELECT coalesce(sum(last_id - first_id + 1), 0) FROM batch WHERE status = ?"
        in_hand = node.one(sending, "SENDING")
        node.start()
        wait_until(lambda: node.one(sending, "IN_DOUBT") == in_hand > 1, what="all in doubt")
        last = node.captured()
        undelivered = "SELECT count(*) FROM message WHERE id <= ? AND status = 'PENDING'"
        wait_until(lambda: node.one(undelivered, last) == 0, what="the others are delivered")
        node.stop()
        assert sink.repeated_ids() == set()
        assert node.run("audit").returncode == 0
