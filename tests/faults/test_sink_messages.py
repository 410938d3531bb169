"""P8: one bad message never stops the rest, and a bad sink never condemns a message."""

import time

import pytest
from crash.node import Node, running
from faults.outages import (
    LEAST_WAIT_SECONDS,
    QUICK,
    assert_mended,
    await_down,
    await_messages,
    await_up,
    failures,
    is_down,
    problem_of,
    stopped_verdict,
    tries,
    verdict_of,
)
from sinks import SinkProcess, answer, hang, ok, refuse
from waiting import wait_until

WALK = {"source": "mock", "waveform": "random-walk", "rate": 50, "min": -1e6, "max": 1e6}
ONE_BAD = {**QUICK, "sensor": WALK}


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "403 Forbidden"), (500, "500 Internal Server Error")]
)
def test_one_message_that_is_never_accepted_stops_no_other_and_is_shown(tmp_path, status, reason):
    """As a web application firewall does, or a sink that stumbles over what it is given."""
    with running(tmp_path, **ONE_BAD) as (node, sink):
        sink.behave(answer(503))
        await_down(node, "503")
        bad, value = node.rows("SELECT id, value FROM message ORDER BY id DESC LIMIT 1")[0]
        sink.behave(refuse(value=value, status=status))
        await_up(node)
        await_messages(node, "FAILED", 1, sink.summary)
        node.await_delivered(but=bad)
        # Until then it may take the sink DOWN once more, for a moment.
        at_fault = f"SELECT count(*) FROM batch WHERE first_id = {bad} AND failures > 0"
        wait_until(lambda: node.one(at_fault), what="it is known to be at fault")
        assert not is_down(node)
        problem = wait_until(lambda: any_problem(node, reason), what="status tells of it")
        assert problem["what"].startswith("1 message failed while the sink takes others"), problem
        assert "messages --status FAILED" in problem["hint"]
        # Each time that it is tried it is SENDING for a moment.
        [bad_id] = node.wire_ids(f"id = {bad}")
        shown = wait_until(lambda: failed_line(node, bad_id), what="it is among the FAILED")
        assert reason in shown
        # It is tried again and again, but with the schedule's patience.
        sent, tried = node.captured(), tries(node)
        node.await_captured(sent + 50)
        assert tries(node) - tried < 50 + 2 / 0.05
        await_messages(node, "FAILED", 1, sink.summary)
        sink.behave(ok())
        verdict_of(node, sink)


def failed_line(node, wire_id):
    lines = node.run("messages", "--status", "FAILED").stdout.splitlines()
    return next((line for line in lines if wire_id in line), None)


def any_problem(node, reason):
    return next((one for one in node.status()["problems"] if reason in one["what"]), None)


def test_one_refused_message_in_a_hundred_is_dead_and_the_rest_arrives(tmp_path):
    bad = {"sensor:bad": {"source": "mock", "rate": 2}}
    with running(tmp_path, **{**QUICK, "sensor": {"rate": 200}}, **bad) as (node, sink):
        sink.behave(refuse(name="bad"))
        node.await_captured(600)
        sink.behave(refuse(name="bad"))
        dead = "SELECT count(*) FROM message WHERE status = 'DEAD'"
        wait_until(lambda: node.one(dead) >= 3, 60, "the bad ones are DEAD")
        assert not is_down(node)
        assert "DEAD" in problem_of(node, "the sink refuses")["what"]
        node.stop()
        assert node.one("SELECT count(*) FROM message WHERE status = 'DEAD' AND name <> 'bad'") == 0
        verdict = stopped_verdict(node, sink)
        assert verdict.stored > 500


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"status": 500}, "500 Internal Server Error"),
        ({"status": 503}, "503 Service Unavailable"),
        ({"how": "reset"}, "connection closed without a whole answer"),
        ({"how": "hang"}, "timed out after 0.4s"),
    ],
    ids=["500", "503", "reset", "silence"],
)
def test_a_sensor_that_makes_the_sink_fail_is_set_apart_and_stops_no_other(tmp_path, how, reason):
    """Each whole batch has one of its readings in it."""
    bad = {"sensor:bad": {"source": "mock", "rate": 10}}
    with running(tmp_path, **{**QUICK, "sensor": {"rate": 40}}, **bad) as (node, sink):
        node.await_delivered(10)
        sink.behave(refuse(name="bad", **how))
        wait_until(lambda: node.events("sensor isolated"), 120, "it is set apart", node.story)
        [event] = node.events("sensor isolated")
        assert event["detail"].startswith(f"bad: {reason}")
        # From now on the others arrive as if nothing was wrong.
        for _ in range(3):
            await_others(node, node.captured())
        assert not is_down(node)
        problem = problem_of(node, "sensor bad is set apart")
        assert reason in problem["what"]
        assert "it is tried again in" in problem["hint"]
        # It is tried by the schedule alone: what is set apart costs nothing more.
        asked, began = refusals(sink), time.monotonic()
        node.await_captured(node.captured() + 200)
        assert refusals(sink) - asked <= 1 + (time.monotonic() - began) / LEAST_WAIT_SECONDS
        assert node.one("SELECT count(*) FROM message WHERE status = 'DEAD'") == 0
        sink.behave(ok())
        sink.release()
        wait_until(lambda: node.events("sensor let in"), 60, "it is let in again", node.story)
        assert_mended(node)
        assert not [one for one in node.status()["problems"] if "set apart" in one["what"]]
        verdict_of(node, sink)


def test_a_sink_that_is_down_sets_no_sensor_apart(tmp_path):
    bad = {"sensor:bad": {"source": "mock", "rate": 10}}
    with running(tmp_path, **{**QUICK, "sensor": {"rate": 40}}, **bad) as (node, sink):
        for status in (500, 503):
            node.await_delivered(node.captured() + 20)
            sink.behave(answer(status))
            await_down(node, str(status))
            wait_until(lambda: failures(node) >= 20, 90, "20 probes")
            sink.behave(ok())
            await_up(node)
        assert_mended(node)
        assert node.events("sensor isolated") == []
        verdict_of(node, sink)


def await_others(node, last):
    """All that was captured up to that id, but for the sensor at fault, is delivered."""
    query = "SELECT count(*) FROM message WHERE name <> 'bad' AND id <= ? AND status <> 'SENT'"
    wait_until(lambda: not node.one(query, last), 60, "the others arrive", node.story)


def refusals(sink):
    """How many requests had a reading of the sensor at fault."""
    return sum(b'"bad"' in one.body for one in sink.requests())


def test_a_limit_on_bytes_is_found_and_kept_to(tmp_path):
    with running(tmp_path, **{**QUICK, "sensor": {"rate": 200}}) as (node, sink):
        sink.behave(answer(503))
        node.await_captured(200)
        sink.behave(refuse(more_bytes_than=2000, status=413))
        node.await_delivered()
        assert not is_down(node)
        verdict_of(node, sink)
        taken = [len(one.body) for one in sink.requests() if one.behaviour.refuse_bytes]
        assert max(taken) > 2000
        assert min(taken) < 2000


@pytest.mark.parametrize("batch_size", [50, 1])
def test_a_spell_of_refusals_of_everything_condemns_nothing(tmp_path, batch_size):
    """The peers that were compared lost two thirds of their records to this."""
    options = {**QUICK, "sink": {**QUICK["sink"], "batch_size": batch_size}}
    with running(tmp_path, **options) as (node, sink):
        for _ in range(2):
            node.await_delivered(node.captured() + 20)
            sink.behave(answer(400))
            await_down(node, "400 Bad Request")
            assert "check [sink] format" in problem_of(node, "400 Bad Request")["hint"]
            node.await_captured(node.captured() + 50)
            sink.behave(ok())
            await_up(node)
        assert_mended(node)
        assert verdict_of(node, sink).stored_twice == set()


def test_what_was_accepted_before_a_spell_of_refusals_condemns_nothing_in_it(tmp_path):
    """Its answer comes late, between two refusals of the others."""
    three = {"source": "command", "command": "seq 3", "rate": "1/h"}
    options = {"sensor": three, "sink": {"batch_size": 1}}
    with SinkProcess(tmp_path) as sink:
        sink.behave(answer(400))
        sink.script(hang(store="before"))
        options["sink"]["url"] = sink.url
        with Node(tmp_path / "node", **{**QUICK, **options}) as node:
            node.start()
            await_messages(node, "FAILED", 2, sink.summary)
            await_down(node, "400 Bad Request")
            sink.release()
            await_messages(node, "SENT", 1, sink.summary)
            failed = failures(node)
            wait_until(lambda: failures(node) >= failed + 4, 60, "both are refused again")
            assert node.one("SELECT count(*) FROM message WHERE status = 'DEAD'") == 0
            sink.behave(ok())
            verdict_of(node, sink)
