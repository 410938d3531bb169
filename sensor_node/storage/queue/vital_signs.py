"""The sensor table: how each sensor is, in one row that is written along with readings.

Rows are written seldom. What was stored since is counted among the messages, by their names, so
that nobody has to write more often: status shows it, and the next generator adds it. Of a command's
readings that bear other names, or were deleted meanwhile, a crash may so cost the count of the last
ten seconds; so may a salvage.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sensor_node.core.model import VitalSigns
from sensor_node.storage.queue import message_ids

NAMES = "SELECT name FROM sensor"
FORGET = "DELETE FROM sensor WHERE name = :name"
WATCH = """
INSERT INTO sensor(name, since, silent_after, noted_at, noted_id)
VALUES (:name, :at, :silent_after, :at, :noted_id)
ON CONFLICT(name) DO UPDATE SET
  since = :at, silent_after = :silent_after, noted_at = :at, noted_id = :noted_id,
  heard_at = NULL, failing = 0, silent = 0, unaccounted = 0
"""
NOTE = """
UPDATE sensor SET
  noted_at = :noted_at, noted_id = :noted_id,
  readings = readings + :readings, failures = failures + :failures,
  last_us = coalesce(:last_us, last_us), last_value = coalesce(:last_value, last_value),
  heard_at = :heard_at,
  error = CASE WHEN :error_us IS NULL THEN error ELSE :error END,
  error_us = coalesce(:error_us, error_us),
  failing = :failing, silent = :silent, unaccounted = :unaccounted
WHERE name = :name
"""
# Whenever a row is written, so are all that have changed. value and the time are those of the
# highest id: https://www.sqlite.org/lang_select.html#bareagg
FRESH = """
SELECT name, count(*), coalesce(captured_us, timestamp_us), value, max(id) FROM message
WHERE id > (SELECT max(noted_id) FROM sensor) GROUP BY name
"""
ADD_FRESH = """
UPDATE sensor SET readings = readings + :readings, last_us = :last_us, last_value = :last_value
WHERE name = :name
"""
SET_NOTED_ID = "UPDATE sensor SET noted_id = :noted_id"
READ = """
SELECT name, since, silent_after, noted_at, readings, failures, last_us, last_value, heard_at,
       error, error_us, failing, silent, unaccounted
FROM sensor
"""


class SensorRow(NamedTuple):
    """As in VitalSigns, but `readings` and `failures` are of the database's whole life."""

    name: str
    since: float
    silent_after: float
    noted_at: float
    readings: int
    failures: int
    last_us: int | None
    last_value: float | None
    heard_at: float | None
    error: str
    error_us: int | None
    failing: int
    silent: int
    unaccounted: int


class Fresh(NamedTuple):
    """What was stored under a name since the rows were written."""

    readings: int
    last_us: int
    last_value: float


def watch(connection: sqlite3.Connection, silent_after: Mapping[str, float], at: float) -> None:
    """A generator begins: the sensors by name, and the seconds after which each is silent.

    `at`: CLOCK_MONOTONIC seconds.
    """
    for name, fresh in read_fresh(connection).items():
        connection.execute(ADD_FRESH, {"name": name, **fresh._asdict()})
    for (name,) in connection.execute(NAMES).fetchall():
        if name not in silent_after:
            connection.execute(FORGET, {"name": name})
    noted_id = message_ids.highest_id(connection)
    for name, seconds in silent_after.items():
        row = {"name": name, "at": at, "silent_after": seconds, "noted_id": noted_id}
        connection.execute(WATCH, row)


def note(connection: sqlite3.Connection, signs: Iterable[VitalSigns]) -> None:
    """Before the readings of the same transaction, which the signs do not know of, are stored."""
    noted_id = message_ids.highest_id(connection)
    for one in signs:
        connection.execute(NOTE, {**one._asdict(), "noted_id": noted_id})


def pass_over(connection: sqlite3.Connection) -> None:
    """What was stored last was read by no sensor of ours."""
    connection.execute(SET_NOTED_ID, {"noted_id": message_ids.highest_id(connection)})


def read(connection: sqlite3.Connection) -> dict[str, SensorRow]:
    """By name."""
    return {row[0]: SensorRow(*row) for row in connection.execute(READ)}


def read_fresh(connection: sqlite3.Connection) -> dict[str, Fresh]:
    """By name. Bounded: rows are written at least every 50,000 readings."""
    return {
        name: Fresh(readings, last_us, last_value)
        for name, readings, last_us, last_value, _ in connection.execute(FRESH)
    }
