"""The table `sensor`: the vital signs of each sensor, in a row that is written along with readings.

Rows are written seldom. Readings that were stored after them are counted in the table `message`, by
name: `status` adds them, and so does the next generator. This does not see a command's readings
under other names, and deleted ones. So a crash, or a salvage, may cost their count of the last ten
seconds.
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
# When a row is written, so are all others that have changed: so the highest noted_id holds for all.
# Value and time are those of the highest id: https://www.sqlite.org/lang_select.html#bareagg
UNNOTED = """
SELECT name, count(*), coalesce(captured_us, timestamp_us), value, max(id) FROM message
WHERE id > (SELECT max(noted_id) FROM sensor) GROUP BY name
"""
ADD_UNNOTED = """
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
    """A row of `sensor`: as VitalSigns, but `readings` and `failures` count since it was made.

    `since`, `noted_at`, `heard_at`: CLOCK_MONOTONIC seconds. `silent_after`: seconds. `last_us`,
    `error_us`: microseconds since 1970. `failing`, `silent`: 0 or 1. docs/database.md has more.
    """

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


class Unnoted(NamedTuple):
    """What was stored under a name after its row was written.

    `readings`: how many; `last_us`, `last_value`: the last of them, in microseconds since 1970.
    """

    readings: int
    last_us: int
    last_value: float


def watch(connection: sqlite3.Connection, silent_after: Mapping[str, float], at: float) -> None:
    """A generator begins: keep a row for each of these sensors, and forget the others.

    `silent_after`: by name, how many seconds without a reading are too many. `at`: CLOCK_MONOTONIC
    seconds.
    """
    for name, unnoted in read_unnoted(connection).items():
        connection.execute(ADD_UNNOTED, {"name": name, **unnoted._asdict()})
    for (name,) in connection.execute(NAMES).fetchall():
        if name not in silent_after:
            connection.execute(FORGET, {"name": name})
    noted_id = message_ids.highest_id(connection)
    for name, seconds in silent_after.items():
        row = {"name": name, "at": at, "silent_after": seconds, "noted_id": noted_id}
        connection.execute(WATCH, row)


def note(connection: sqlite3.Connection, signs: Iterable[VitalSigns]) -> None:
    """Write the sensors' rows; call it before the readings of the same transaction are stored.

    The vital signs do not count those readings, so they must get ids above `noted_id`.
    """
    noted_id = message_ids.highest_id(connection)
    for sign in signs:
        connection.execute(NOTE, {**sign._asdict(), "noted_id": noted_id})


def pass_over(connection: sqlite3.Connection) -> None:
    """Do not count what was stored last: no sensor of ours has read it."""
    connection.execute(SET_NOTED_ID, {"noted_id": message_ids.highest_id(connection)})


def read(connection: sqlite3.Connection) -> dict[str, SensorRow]:
    """The rows, by name."""
    return {row[0]: SensorRow(*row) for row in connection.execute(READ)}


def read_unnoted(connection: sqlite3.Connection) -> dict[str, Unnoted]:
    """By name. It reads 50,000 messages at most, as rows are written at least that often."""
    return {
        name: Unnoted(readings, last_us, last_value)
        for name, readings, last_us, last_value, _ in connection.execute(UNNOTED)
    }
