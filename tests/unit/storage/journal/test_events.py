"""Outages, drops and restarts are in `history` (P7), in a table that stays small (P5)."""

import ast
import contextlib
from pathlib import Path

import pytest
from storage_fixtures import rows

import sensor_node
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.journal import events, log_hold

NOW = 1000.0
TREES = [
    ast.parse(file.read_text()) for file in sorted(Path(sensor_node.__path__[0]).rglob("*.py"))
]
# Where the kind stands in the calls that tell of an event.
PLACES = {"record": 2, "record_event": 1, "remember": 0, "Loss": 0}
# Told by these names and not by a text.
NAMED = {log_hold.HELD, log_hold.FREE}


def record(repository, now, kind="dropped", detail="late", **span):
    with repository._transaction() as connection:
        events.record(connection, now, kind, detail, **span)


def since(repository, moment=0.0):
    with contextlib.closing(open_reader(repository.path)) as connection:
        return [row for row in events.since(connection, moment) if row.kind != "started"]


def kinds_in_the_code():
    """The kind in each call that records an event, or has one recorded later."""
    for call in (node for tree in TREES for node in ast.walk(tree) if isinstance(node, ast.Call)):
        place = PLACES.get(getattr(call.func, "attr", "") or getattr(call.func, "id", ""))
        if place is not None and isinstance(call.args[place], ast.Constant):
            yield call.args[place].value


# One event that goes on


def test_the_same_event_again_within_ten_minutes_goes_on(repository):
    record(repository, NOW, n=2, first=5, last=6)
    record(repository, NOW + 599, n=3, first=7, last=9)
    [event] = since(repository)
    assert event == events.EventRow(NOW, NOW + 599, "dropped", "late", 5, 5, 9)


def test_an_event_that_goes_on_has_the_whole_range_in_whatever_order_its_parts_came(repository):
    for first, last in ((50, 60), (10, 20), (70, 80), (30, 40)):
        record(repository, NOW, first=first, last=last)
    record(repository, NOW)
    [event] = since(repository)
    assert (event.first, event.last, event.n) == (10, 80, 5)


@pytest.mark.parametrize(
    ("now", "kind", "detail"),
    [
        (NOW + 601, "dropped", "late"),
        (NOW - 1, "dropped", "late"),  # the clock was set back
        (NOW, "dropped", "asleep"),
        (NOW, "evicted", "late"),
    ],
)
def test_another_event_is_another_row(repository, now, kind, detail):
    record(repository, NOW)
    record(repository, now, kind, detail)
    assert len(since(repository)) == 2


def test_events_that_alternate_are_merged_with_the_last_of_their_kind(repository):
    for tick in range(100):
        record(repository, NOW + tick, "dropped")
        record(repository, NOW + tick, "evicted")
    assert [(event.kind, event.n) for event in since(repository)] == [
        ("dropped", 100),
        ("evicted", 100),
    ]


def test_whatever_happens_meanwhile_an_event_of_ten_minutes_ago_goes_on(repository):
    record(repository, NOW)
    for tick in range(500):
        record(repository, NOW + tick, ("sink down", "clock step")[tick % 2], str(tick))
        record(repository, NOW + tick, "dropped", f"reason {tick % 30}")
    record(repository, NOW + 599)
    assert rows(repository, "SELECT n FROM event WHERE detail = 'late'") == [(2,)]


# Floods


def flap(repository, times, now=NOW, seconds=4.0):
    """The sink goes DOWN and comes UP so often. Returns the time after it."""
    for _ in range(times):
        record(repository, now, "sink down", f"refused at {now:g}")
        record(repository, now + seconds / 2, "sink up", f"after 2 s at {now:g}")
        now += seconds
    return now


def test_outages_have_a_row_each_until_there_are_too_many(repository):
    flap(repository, events.FLOOD, seconds=10)
    assert [row.n for row in since(repository)] == [1] * 2 * events.FLOOD


def test_outages_in_a_flood_are_one_event_that_goes_on_until_it_has_been_calm(repository):
    calm_at = flap(repository, 1000)
    down = [row for row in since(repository) if row.kind == "sink down"]
    assert [row.n for row in down] == [1] * (events.FLOOD - 1) + [1000 - events.FLOOD + 1]
    assert down[-1].at == NOW + 4 * (events.FLOOD - 1)
    assert (down[-1].until, down[-1].detail) == (calm_at - 4, f"refused at {calm_at - 4:g}")
    flap(repository, 2, calm_at + events.CALM_SECONDS)
    assert [row.n for row in since(repository) if row.kind == "sink up"][-2:] == [1, 1]


def test_outages_that_are_rare_have_a_row_each_however_many(repository):
    flap(repository, 100, seconds=60)
    assert [row.n for row in since(repository)] == [1] * 200


def test_a_clock_that_was_set_back_ends_a_flood(repository):
    flap(repository, 100)
    flap(repository, 1, NOW - 5000)
    assert [row.n for row in since(repository, NOW - 9999)][-2:] == [1, 1]


def test_each_run_has_its_own_rows(repository):
    """Their order tells an unclean stop, and their ranges when nothing was captured."""
    for second in range(100):
        record(repository, NOW + second, "not running", "", first=second, last=second + 1)
        record(repository, NOW + second, "stopped", "")
    assert len(since(repository)) == 200


# Bounded


def test_a_sink_that_flaps_for_days_pushes_out_nothing_that_was_lost(repository):
    record(repository, NOW, "dropped", "disk full", n=7, first=3, last=9)
    record(repository, NOW, "evicted", "max_size", n=5, first=1, last=5)
    now = NOW
    with repository._transaction() as connection:
        for spell in range(300):  # of outages that are just not a flood, and of floods
            for _ in range(40 if spell % 2 else events.FLOOD - 1):
                events.record(connection, now, "sink down", f"refused at {now}")
                events.record(connection, now + 1, "sink up", f"after 1 s at {now}")
                now += 20
            now += 2 * events.CALM_SECONDS
    told = since(repository)
    assert [(row.detail, row.n, row.first, row.last) for row in told[:2]] == [
        ("disk full", 7, 3, 9),
        ("max_size", 5, 1, 5),
    ]
    assert len(told) == 2 + 2 * events.MOST_OF_A_KIND


def test_of_a_kind_only_its_share_is_kept_the_newest(repository):
    with repository._transaction() as connection:
        for number in range(events.MOST_OF_A_KIND + 50):
            events.record(connection, NOW + number, "dropped", str(number))
    details = [int(row.detail) for row in since(repository)]
    assert details == list(range(50, events.MOST_OF_A_KIND + 50))


def test_there_are_never_more_than_ten_thousand_events(repository):
    """Every kind has its share, and there is no other kind."""
    assert events.MOST_OF_A_KIND * len(events.KINDS) <= events.MOST_EVENTS
    told = {*kinds_in_the_code(), *NAMED}
    assert told == set(events.KINDS)
    assert len(set(events.KINDS)) == len(events.KINDS)


def test_what_holds_the_log_now_is_told_however_often_it_was_held_before(repository):
    for number in range(60):
        record(repository, NOW + 10 * number, log_hold.HELD, f"number {number}")
        record(repository, NOW + 10 * number + 5, log_hold.FREE)
    assert repository.log_hold() is None
    record(repository, NOW + 600, log_hold.HELD, "the last")
    assert repository.log_hold() == (NOW + 600, "the last")


def test_history_begins_with_what_was_still_going_on_then(repository):
    record(repository, NOW)
    record(repository, NOW + 500)
    record(repository, NOW + 700, "evicted")
    assert [event.kind for event in since(repository, NOW + 400)] == ["dropped", "evicted"]
    assert [event.kind for event in since(repository, NOW + 600)] == ["evicted"]


# A line in the log


def test_an_event_is_said_once_it_is_committed_and_not_while_it_goes_on(repository, caplog):
    caplog.set_level("INFO")
    with repository._transaction() as connection:
        events.record(connection, NOW, "dropped", "late")
        assert not caplog.messages
    record(repository, NOW + 1)
    assert caplog.messages == ["dropped late"]
    assert [line.levelname for line in caplog.records] == ["WARNING"]


def test_of_what_is_rolled_back_nothing_is_said_then_or_later(repository, caplog):
    with contextlib.suppress(RuntimeError), repository._transaction() as connection:
        events.record(connection, NOW, "dropped", "late")
        raise RuntimeError
    record(repository, NOW, "evicted", "max_size")
    assert caplog.messages == ["evicted max_size"]


def test_each_change_of_what_is_wrong_with_the_sink_is_said(repository, caplog):
    record(repository, NOW, "sink down", "503")
    for detail in ("404", "timed out"):
        record(repository, NOW, "still down", detail)
    assert caplog.messages == ["sink_down 503", "still_down 404", "still_down timed out"]
