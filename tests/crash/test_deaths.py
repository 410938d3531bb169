"""The tests' own promise: no process of a node dies unnoticed while a test looks elsewhere."""

import os
import signal

import pytest
from crash import proc
from crash.deaths import unasked_deaths
from crash.node import Node
from waiting import wait_until

START = "2026-01-31 12:00:00,1 INFO 7 process_started name={} pid={}\n"
DEATH = "2026-01-31 12:00:01,1 WARNING 7 process_died {} was killed by SIGKILL\n"


def test_a_death_is_told_by_the_pid_that_the_place_had_then():
    log = START.format("retrier", 8) + DEATH.format("retrier")
    log += START.format("retrier", 9) + DEATH.format("retrier")
    [line] = unasked_deaths(log, victims=[8])
    assert line == DEATH.format("retrier").strip()
    assert unasked_deaths(log, victims=[8, 9]) == []
    assert unasked_deaths(log, victims=[], may_die=["retrier"]) == []
    assert len(unasked_deaths(log, victims=[], may_die=["sender-1"])) == 2


@pytest.mark.parametrize(
    "event",
    [
        "process_aborted name=sender-1 it does not move",
        "process_killed name=sender-1 it did not stop in time",
    ],
)
def test_what_the_supervisor_had_to_end_is_told(event):
    log = START.format("sender-1", 8) + f"2026-01-31 12:00:01,1 ERROR 7 {event}\n"
    assert len(unasked_deaths(log, victims=[])) == 1
    assert unasked_deaths(log, victims=[8]) == []


def test_a_process_that_crashes_while_it_stops_is_told():
    log = START.format("sender-1", 8)
    log += "2026-01-31 12:00:01,1 ERROR 8 crashed role=sender TypeError()\nTraceback …\n"
    assert len(unasked_deaths(log, victims=[])) == 1
    assert unasked_deaths(log, victims=[], may_die=["sender-1"]) == []


def test_a_test_of_a_node_fails_if_a_process_died_that_it_did_not_kill(tmp_path):
    with pytest.raises(AssertionError, match="process_died retrier"), Node(tmp_path) as node:
        node.start()
        pid = node.pids()["retrier"]
        os.kill(pid, signal.SIGTERM)  # and not by way of the node: nobody knows of it
        node.await_running("retrier", instead_of=pid)
    with Node(tmp_path) as node:
        node.start()
        node.kill("sender-1")
        wait_until(lambda: "process_died sender-1" in node.log(), what="it is noticed")
        proc.victims.add(pid)  # of the first part, whose log this is
