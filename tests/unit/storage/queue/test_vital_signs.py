"""How each sensor is, in the database: counts add up, rows of no sensor go, reading is cheap."""

import contextlib

from storage_fixtures import POLICY, ROOM, deliver, readings, rows

from sensor_node.core.model import Reading, VitalSigns
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.queue import vital_signs
from sensor_node.storage.repair.salvage import Salvaged

TWO = {"cpu": 10.0, "room": 30.0}


def watched(repository, at=100.0, silent_after=TWO):
    repository.watch_sensors(silent_after, at)
    return repository


def signs(name="cpu", at=110.0, **changes):
    return VitalSigns(name, at, **changes)


def capture(repository, count, *signs, name="cpu", first_us=0):
    assert repository.capture(readings(count, first_us, name), [], 0.0, ROOM, signs) == count


def read(repository):
    with contextlib.closing(open_reader(repository.path)) as connection:
        return vital_signs.read(connection)


def unnoted(repository):
    with contextlib.closing(open_reader(repository.path)) as connection:
        return {name: tuple(row) for name, row in vital_signs.read_unnoted(connection).items()}


def test_a_sensor_has_a_row_before_it_gave_anything(repository) -> None:
    row = read(watched(repository))["room"]
    assert (row.since, row.silent_after, row.readings, row.failures) == (100.0, 30.0, 0, 0)
    assert (row.last_us, row.heard_at, row.error, row.failing, row.silent) == (None, None, "", 0, 0)


def test_counts_are_added_and_the_rest_is_as_it_is_now(repository) -> None:
    watched(repository)
    once = signs(readings=3, failures=1, last_us=7, last_value=1.5, heard_at=105.0)
    capture(repository, 1, once._replace(error="no bus", error_us=9, failing=True, silent=True))
    capture(repository, 1, signs(readings=4, failures=2, last_us=8, last_value=2.5, heard_at=108.0))
    row = read(repository)["cpu"]
    assert (row.readings, row.failures) == (7, 3)
    assert (row.last_us, row.last_value, row.heard_at) == (8, 2.5, 108.0)
    assert (row.failing, row.silent) == (0, 0)
    assert (row.error, row.error_us) == ("no bus", 9), "the last error stays"


def test_a_sensor_that_gave_nothing_since_keeps_its_last_reading(repository) -> None:
    watched(repository)
    capture(repository, 1, signs(last_us=7, last_value=1.5))
    capture(repository, 1, signs())
    row = read(repository)["cpu"]
    assert (row.last_us, row.last_value) == (7, 1.5)


def test_what_was_stored_with_the_signs_and_since_is_counted_among_the_messages(repository) -> None:
    watched(repository)
    capture(repository, 5, signs())
    capture(repository, 2, name="room", first_us=50)
    assert unnoted(repository) == {"cpu": (5, 4_000_000, 4.0), "room": (2, 1_000_050, 1.0)}
    capture(repository, 3, signs(readings=5), signs("room", readings=2))
    assert unnoted(repository) == {"cpu": (3, 2_000_000, 2.0)}
    assert [read(repository)[name].readings for name in TWO] == [5, 2]


def test_where_no_sensor_is_watched_there_is_nothing_to_count(repository) -> None:
    capture(repository, 5)
    assert unnoted(repository) == {}


def test_the_next_generator_adds_what_a_killed_one_had_stored(repository) -> None:
    watched(repository)
    capture(repository, 5, signs(failing=True, silent=True, unaccounted=3, heard_at=101.0))
    watched(repository, at=200.0)
    row = read(repository)["cpu"]
    assert (row.readings, row.last_us, row.last_value) == (5, 4_000_000, 4.0)
    # How it is, is not known yet.
    assert (row.since, row.heard_at, row.failing, row.silent, row.unaccounted) == (
        200.0,
        None,
        0,
        0,
        0,
    )
    assert unnoted(repository) == {}
    watched(repository, at=300.0)
    assert read(repository)["cpu"].readings == 5


def test_sensors_that_are_configured_no_more_are_forgotten_and_others_are_not(repository) -> None:
    watched(repository)
    capture(repository, 1, signs(readings=3))
    watched(repository, silent_after={"cpu": 12.0, "boiler": 10.0})
    found = read(repository)
    assert set(found) == {"cpu", "boiler"}
    assert (found["cpu"].readings, found["cpu"].silent_after) == (4, 12.0)


def test_readings_that_were_salvaged_are_no_sensors(repository) -> None:
    watched(repository)
    found = [
        Salvaged("0" * 24, n, "edge-01", "FAILED", Reading("cpu", 1.0, 0)) for n in range(1, 8)
    ]
    assert repository.salvage(found, "old.db", POLICY, 0.0) == 7
    assert unnoted(repository) == {}


def test_a_name_may_be_anything(repository) -> None:
    name = "'; DROP TABLE sensor; --\n\0é"
    watched(repository, silent_after={name: 10.0})
    capture(repository, 2, signs(name, readings=1), name=name)
    assert read(repository)[name].readings == 1
    assert unnoted(repository)[name][0] == 2


def test_they_are_written_with_the_readings_or_not_at_all(repository) -> None:
    watched(repository)
    with contextlib.suppress(Exception):
        valueless = Reading("cpu", None, 0)
        repository.capture([valueless], [], 0.0, ROOM, [signs(readings=9)])
    assert read(repository)["cpu"].readings == 0


def test_reading_them_goes_by_what_is_new_however_much_there_is(repository) -> None:
    watched(repository)
    capture(repository, 5000)
    deliver(repository, 5000)
    capture(repository, 1, signs(readings=5000))
    [plan] = [
        step
        for (*_, step) in rows(repository, f"EXPLAIN QUERY PLAN {vital_signs.UNNOTED}")
        if "message" in step
    ]
    assert plan == "SEARCH message USING INTEGER PRIMARY KEY (rowid>?)"
