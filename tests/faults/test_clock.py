"""A wall clock that jumps under a running node: nothing is lost, nothing waits for it.

The node's processes and the command line go by a wall clock that the test sets.
"""

import itertools
import time

import pytest
from checker import judge
from crash.node import Node, await_hanging
from faults.wall_clock import make_wall_clock
from sinks import SinkProcess, answer, hang, ok
from waiting import wait_until

HOUR = 3600
TEN_YEARS = 3650 * 24 * HOUR
# Longer than any of these runs, shorter than any of the leaps.
A_WHILE = 600
INITIAL_DELAY = 0.4
STEPS = "SELECT count(*) FROM event WHERE kind = 'clock step'"


@pytest.fixture
def clock(tmp_path):
    return make_wall_clock(tmp_path)


@pytest.fixture
def make(tmp_path, clock):
    """A node by that clock, not yet started, and its sink, which goes by the true time."""
    with SinkProcess(tmp_path) as sink:
        made = []

        def make_node(**sections):
            sections["sink"] = {"url": sink.url, **sections.get("sink", {})}
            made.append(Node(tmp_path / "node", **sections))
            made[0].variables = clock.environment
            made[0].__enter__()
            return made[0], sink

        try:
            yield make_node
        except BaseException as error:
            for node in made:
                node.__exit__(type(error), error, None)
            raise
        for node in made:
            node.__exit__(None, None, None)


def leap(node, clock, offset):
    """Set the clock, and wait until the node has noted it."""
    before = node.one(STEPS)
    clock.set(offset)
    wait_until(lambda: node.one(STEPS) > before, what="the step is noted", detail=node.log)


def assert_sane(node):
    """What people are told of ages and waits is as if the clock had never jumped."""
    told = node.status()
    assert 0 <= told["uptime_seconds"] < A_WHILE
    assert 0 <= (told["oldest_undelivered_seconds"] or 0) < A_WHILE
    assert 0 <= (told["sink"]["next_probe_seconds"] or 0) < A_WHILE
    for event in node.events("sink up"):
        assert 0 <= float(event["detail"].split()[1]) < A_WHILE, event


def test_leaps_of_hours_and_years_neither_stall_a_sink_that_is_down_nor_storm_it(make, clock):
    """Each time batches wait, for their own sake, for the sink's and for being filled."""
    node, sink = make(
        sink={"send_interval": "300ms"},
        retry={"initial_delay": f"{INITIAL_DELAY}s", "max_delay": f"{INITIAL_DELAY}s"},
    )
    node.start()
    node.await_captured(5)
    offsets = (HOUR, HOUR // 2, TEN_YEARS, 0)
    for offset in offsets:
        sink.behave(answer(503, Retry_After="1"))
        wait_until(lambda: node.one("SELECT state FROM sink") == "DOWN", what="it is down")
        asked = sink.request_count()
        leap(node, clock, offset)
        wait_until(lambda n=asked: sink.request_count() >= n + 2, what="it is asked again")
        assert_sane(node)
        sink.behave(ok())
        node.await_delivered()
    refused = [one.monotonic for one in sink.requests() if one.behaviour.status == 503]
    # A leap makes what waits due once; else the sink's second holds. At the beginning of an
    # outage another process may have a request under way.
    early = sum(later - sooner < 0.9 for sooner, later in itertools.pairwise(refused))
    assert early <= 3 * len(offsets)
    assert len(node.events("clock step")) == len(offsets)
    node.stop()
    assert node.run("audit").returncode == 0
    verdict = judge(node.database, sink.database)
    verdict.assert_good()
    assert (verdict.evicted, verdict.stored_twice) == (0, set()), verdict


def test_a_leap_gives_up_no_reading_as_too_old_and_age_goes_on_after_it(make, clock):
    node, sink = make(storage={"max_age": "1h"})
    node.start()
    node.await_captured(10)
    node.await_delivered()
    sink.behave(answer(503))
    waiting = node.captured() + 20
    node.await_captured(waiting)
    for offset in (TEN_YEARS, -HOUR):
        leap(node, clock, offset)
        # Some seconds' readings: the housekeeper has had its turn.
        node.await_captured(node.captured() + 60)
        counts = node.status()["counts"]
        assert counts["evicted"] == 0, offset
        assert counts["pending"] + counts["failed"] + counts["in_flight"] >= 20
    assert_sane(node)
    node.configure(storage={"max_age": "1s"})
    node.run("reload")
    gone = node.captured()
    wait_until(
        lambda: node.status()["counts"]["evicted"] > gone // 2,
        what="old ones are given up",
        detail=node.story,
    )
    node.stop()
    assert node.run("audit").returncode == 0
    verdict = judge(node.database, sink.database)
    verdict.assert_good()
    assert verdict.stored >= 10 and verdict.evicted > gone // 2, verdict


def test_the_first_time_from_the_network_after_a_boot_in_1970_disturbs_no_claim(make, clock):
    clock.set(A_WHILE - int(time.time()))
    node, sink = make(storage={"max_age": "1d"})
    sink.behave(hang())
    node.start()
    await_hanging(sink, 2)
    node.await_captured(node.captured() + 20)
    leap(node, clock, 0)
    assert_sane(node)
    node.await_captured(node.captured() + 40)
    assert node.status()["counts"]["in_flight"] > 0, "the claims are still live"
    sink.behave(ok())
    sink.release()
    node.await_delivered()
    assert_sane(node)
    assert node.events("reclaimed") == []
    assert node.events("evicted") == []
    node.stop()
    verdict = judge(node.database, sink.database)
    verdict.assert_good()
    assert (verdict.evicted, verdict.stored_twice) == (0, set()), verdict
