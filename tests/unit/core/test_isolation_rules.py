"""Which sensors are set apart: rules without a database."""

from dataclasses import replace

import pytest
from storage_fixtures import BACKOFF, BUSY, ERROR

from sensor_node.core.isolation import (
    ENOUGH_FAILURES,
    WELL_SECONDS,
    Suspect,
    suspect_after,
    suspect_taken,
)
from sensor_node.core.model import SinkStatus
from sensor_node.core.settlement import SinkRecord

NOW = 1_000_000.0
SINK = SinkRecord(SinkStatus.UP, 3, 500.0, "", "", 0.0, 0, 1000, None, 1)


def suspect(failures, sink=SINK, outcome=BUSY, taken_between=1):
    """After so many readings of one sensor have failed, and so many others taken between each."""
    found = None
    for turn in range(failures):
        sink = replace(sink, accepted_total=SINK.accepted_total + turn * taken_between)
        found = suspect_after(found, "bad", sink, outcome, BACKOFF, NOW + turn)
    return found


def test_enough_lone_failures_with_others_taken_between_isolate_a_sensor():
    assert not suspect(ENOUGH_FAILURES - 1).isolated
    found = suspect(ENOUGH_FAILURES)
    assert (found.name, found.isolated, found.reason) == ("bad", True, BUSY.detail)
    assert found.since == NOW + ENOUGH_FAILURES - 1


def test_a_sink_that_takes_nothing_isolates_nobody():
    found = suspect(1000, taken_between=0)
    assert (found.failures, found.isolated) == (1, False)


def test_an_isolated_sensor_is_tried_less_and_less_often():
    found = suspect(ENOUGH_FAILURES)
    for failures in range(2, 20):
        sink = replace(SINK, accepted_total=1000)
        found = suspect_after(found, "bad", sink, ERROR, BACKOFF, NOW)
        wait = found.next_probe_at - NOW
        assert BACKOFF.initial_delay / 2 <= wait <= BACKOFF.ceiling(failures)
        assert found.isolated
    assert found.since == NOW + ENOUGH_FAILURES - 1, "since it is isolated"
    assert found.reason == ERROR.detail


def test_one_that_comes_back_is_set_apart_sooner_until_it_was_well_for_long():
    def failures_until_isolated(before):
        found, n = before, 0
        while not (found and found.isolated):
            sink = replace(SINK, accepted_total=2000 + n)
            found = suspect_after(found, "bad", sink, ERROR, BACKOFF, NOW)
            n += 1
        return found, n

    found, needed = None, []
    for _ in range(5):
        found, n = failures_until_isolated(found)
        needed.append(n)
        found = suspect_taken(found, False, NOW)
        assert not found.isolated, "nothing more of it waits"
    assert needed == [5, 4, 3, 2, 2]
    assert suspect_taken(found, False, NOW + WELL_SECONDS - 1).times == 5
    assert suspect_taken(found, False, NOW + WELL_SECONDS).is_forgotten


def test_a_failure_among_those_that_are_taken_begins_the_row_anew_and_waits_as_at_first():
    found = replace(suspect(ENOUGH_FAILURES + 9), times=2)
    for _ in range(3):
        found = suspect_taken(found, True, NOW)
        assert found.isolated
        assert found.next_probe_at == NOW
    found = suspect_after(found, "bad", SINK, ERROR, BACKOFF, NOW)
    assert found.taken == 0
    assert found.next_probe_at <= NOW + BACKOFF.ceiling(2)
    for taken in range(1, 5):
        found = suspect_taken(found, True, NOW)
        assert found.isolated is (taken < 4)


@pytest.mark.parametrize("asked", [120.0, 3600.0])
def test_the_sink_may_ask_for_a_longer_wait(asked):
    found = suspect(ENOUGH_FAILURES, outcome=replace(BUSY, retry_after=asked))
    assert found.next_probe_at == NOW + ENOUGH_FAILURES - 1 + asked


@pytest.mark.parametrize(("failures", "times"), [(1, 0), (0, 1)])
def test_a_sensor_with_either_failures_or_isolations_is_not_forgotten(failures, times):
    known = Suspect("room", failures, 0, False, NOW, "503", 0.0, times=times)
    assert not known.is_forgotten
    assert replace(known, failures=0, times=0).is_forgotten
