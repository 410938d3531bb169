"""Sensors that give their own timestamps falsify neither the account nor the history."""

import signal

import pytest
from crash import proc
from crash.node import Node
from sinks import SinkProcess
from waiting import wait_until

RATE = 5
PAUSE_SECONDS = 6


def logger(timestamp):
    command = f"""echo '{{"value": 1, "timestamp": "{timestamp}"}}'"""
    return {"source": "command", "command": command, "rate": RATE}


@pytest.fixture(params=["2020-01-01T00:00:00Z", "2035-01-01T00:00:00Z"], ids=("past", "future"))
def node(tmp_path, request):
    with (
        SinkProcess(tmp_path) as sink,
        Node(tmp_path, sensor=logger(request.param), sink={"url": sink.url}) as node,
    ):
        yield node


def test_a_generator_that_is_killed_at_once_costs_what_was_missed_and_no_more(node) -> None:
    node.start()
    node.await_captured(8 * RATE)
    seen = node.captured()
    generator = node.kill("generator")
    wait_until(lambda: node.pids().get("generator", generator) != generator, what="another one")
    node.await_captured(seen + RATE)
    # Away for a second or two; stored readings of the time before are not counted as dropped.
    assert node.dropped() < 8 * RATE


def test_a_generator_that_stood_still_has_all_of_that_time_in_the_account(node) -> None:
    node.start()
    node.await_captured(RATE)
    generator = node.pids()["generator"]
    proc.send(generator, signal.SIGSTOP)
    # It is killed as hung, or here; either way its successor knows how long nothing was captured.
    stood = len(node.rows("SELECT 1 FROM message"))
    wait_until(
        lambda: node.one(AGE) >= PAUSE_SECONDS, deadline=60, what="it has stood still for a while"
    )
    proc.send(generator, signal.SIGKILL)
    node.await_captured(stood + RATE)
    assert node.dropped() >= (PAUSE_SECONDS - 1) * RATE


AGE = "SELECT strftime('%s') - max(captured_us) / 1000000 FROM message"


def test_the_history_tells_of_the_time_between_two_runs(node) -> None:
    node.start()
    node.await_captured(RATE)
    node.stop()
    wait_until(lambda: node.one(AGE) >= 3, deadline=60, what="it has been stopped for a while")
    node.start()
    assert len(node.events("not running")) == 1
