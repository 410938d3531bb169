"""Outages, drops and restarts are in `history` (P7), in a table that stays small (P5)."""

import contextlib

import pytest
from storage_fixtures import rows

from sensor_node.storage import events
from sensor_node.storage.connection import open_reader

NOW = 1000.0


def record(repository, now, kind="dropped", detail="late", **span):
    with repository._transaction() as connection:
        events.record(connection, now, kind, detail, **span)


def since(repository, moment=0.0):
    with contextlib.closing(open_reader(repository.path)) as connection:
        return [row for row in events.since(connection, moment) if row.kind != "started"]


def test_the_same_event_again_within_ten_minutes_goes_on(repository):
    record(repository, NOW, n=2, first=5, last=6)
    record(repository, NOW + 599, n=3, first=7, last=9)
    [event] = since(repository)
    assert event == events.EventRow(NOW, NOW + 599, "dropped", "late", 5, 5, 9)


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


def test_history_begins_with_what_was_still_going_on_then(repository):
    record(repository, NOW)
    record(repository, NOW + 500)
    record(repository, NOW + 700, "evicted")
    assert [event.kind for event in since(repository, NOW + 400)] == ["dropped", "evicted"]
    assert [event.kind for event in since(repository, NOW + 600)] == ["evicted"]


def test_there_are_never_more_than_ten_thousand_events(repository):
    with repository._transaction() as connection:
        for i in range(10_050):
            events.record(connection, NOW, "sink up", str(i))
    [(count, newest)] = rows(repository, "SELECT count(*), max(detail + 0) FROM event")
    assert (count, newest) == (10_000, 10_049)
