"""The sensors of a status report: each one's vital signs, and what is wrong with them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from sensor_node.config.loader import Config
from sensor_node.control.times import span, utc
from sensor_node.core.clock import Moment
from sensor_node.processes import owner
from sensor_node.sensors.source import SensorConfig
from sensor_node.storage.engine.connection import Connection
from sensor_node.storage.journal import key_value
from sensor_node.storage.queue import vital_signs
from sensor_node.storage.queue.vital_signs import SensorRow, Unnoted
from sensor_node.supervision.roles import ROLES

# The row of a sensor that is well may be this old, and one commit interval older.
NOTE_SECONDS = 10.0
MOST_FAILING = 5
MOST_NAMES = 2


class Rows(NamedTuple):
    """What the database says of the sensors, by name."""

    run: str | None  # owner id of the supervisor that began the run
    rows: dict[str, SensorRow]
    unnoted: dict[str, Unnoted]  # readings that are newer than the sensor's row


def read(connection: Connection) -> Rows:
    """The vital signs of all sensors, for judge()."""
    run = key_value.get(connection, "run")
    return Rows(run, vital_signs.read(connection), vital_signs.read_unnoted(connection))


def judge(
    rows: Rows | None, config: Config, report: dict[str, Any], pid: int | None, now: Moment
) -> list[dict[str, Any]]:
    """Each configured sensor as JSON.

    `rows` is None without a database; `pid` is the supervisor's, None if it does not run.
    """
    rows = rows or Rows(None, {}, {})
    is_this_run = pid is not None and rows.run == owner.owner_id_of("supervisor", pid)
    slack = None if _waits_for_database(report) else NOTE_SECONDS
    if slack is not None:
        slack += config.storage.commit_interval or 0.0
    sensors = []
    for sensor in config.sensors:
        row = rows.rows.get(sensor.name)
        # Without a row the sensor is not watched yet: a reading with its name is another sensor's.
        unnoted = rows.unnoted.get(sensor.name) if row else None
        quiet = _quiet_seconds(row, unnoted, slack, now) if row and is_this_run else None
        age = _age_seconds(row, unnoted, now, by_wall=not is_this_run) if row else None
        vital = _json(sensor, row, unnoted, age, quiet)
        if not is_this_run:
            vital |= {"failing": False, "unaccounted": 0}
        sensors.append(vital)
    return sensors


def _waits_for_database(report: dict[str, Any]) -> bool:
    """Whether readings wait in memory for the database. Then no row is written."""
    capturing = {role.name for role in ROLES.values() if role.captures}
    generators = [row for row in report["processes"] if row["role"] in capturing]
    has_trouble = any(generator["trouble"] for generator in generators)
    storage = report["storage"]
    if not storage:
        return has_trouble
    is_tight = storage["log_held"] and storage["log_held"]["tight"]
    return bool(has_trouble or storage["trouble"] or is_tight)


def _heard_at(row: SensorRow, unnoted: Unnoted | None) -> float | None:
    """When the sensor last gave a reading for certain, in CLOCK_MONOTONIC seconds.

    The wall clock may have been set since.
    """
    if unnoted is None:
        return row.heard_at
    return row.noted_at if row.heard_at is None else max(row.heard_at, row.noted_at)


def _quiet_seconds(
    row: SensorRow, unnoted: Unnoted | None, slack: float | None, now: Moment
) -> float | None:
    """For how many seconds the sensor has been silent; None if it is not.

    It does not depend on the generator, which may have died.
    """
    heard_at = _heard_at(row, unnoted)
    quiet = now.monotonic - (row.since if heard_at is None else heard_at)
    is_overdue = slack is not None and quiet > row.silent_after + slack
    return quiet if is_overdue or (row.silent and not unnoted) else None


def _age_seconds(
    row: SensorRow, unnoted: Unnoted | None, now: Moment, *, by_wall: bool
) -> float | None:
    """Age of the last stored reading. The wall clock may have been set since its capture."""
    last_us = unnoted.last_us if unnoted else row.last_us
    if last_us is None:
        return None
    by_clock = max(0.0, now.wall - last_us / 1e6)
    heard_at = _heard_at(row, unnoted)
    if by_wall or heard_at is None:
        return by_clock
    since = max(0.0, now.monotonic - heard_at)
    return min(by_clock, since) if unnoted else since


def _json(
    sensor: SensorConfig,
    row: SensorRow | None,
    unnoted: Unnoted | None,
    age: float | None,
    quiet: float | None,
) -> dict[str, Any]:
    last_us = unnoted.last_us if unnoted else row and row.last_us
    return {
        "name": sensor.name,
        "source": sensor.source.name,
        "rate": sensor.rate,
        "last_at": None if last_us is None else utc(last_us / 1e6),
        "last_value": unnoted.last_value if unnoted else row and row.last_value,
        "age_seconds": None if age is None else round(age, 1),
        "readings": (row.readings if row else 0) + (unnoted.readings if unnoted else 0),
        "failures": row.failures if row else 0,
        "error": row.error if row else "",
        "error_at": utc(row.error_us / 1e6) if row and row.error_us is not None else None,
        "failing": bool(row and row.failing),
        "silent": quiet is not None,
        "silent_seconds": None if quiet is None else round(quiet, 1),
        "unaccounted": row.unaccounted if row else 0,
    }


def complaints(sensors: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """What is wrong, and its hint: sensors that fail, that are silent, or that miss ticks."""
    failing = [sensor for sensor in sensors if sensor["failing"]]
    for sensor in failing[:MOST_FAILING]:
        reason, _, hint = sensor["error"].rpartition("; ")
        description = f"sensor {sensor['name']} failed: {reason or hint}"
        yield description, hint if reason else "see the log"
    if more := failing[MOST_FAILING:]:
        yield f"{len(more)} more sensors fail: {_names(more)}", "sensor-node-ctl status --json"
    silent = [sensor for sensor in sensors if sensor["silent"] and not sensor["failing"]]
    if silent:
        seconds = span(min(sensor["silent_seconds"] for sensor in silent))
        hint = "what it reads may not answer; the log says more"
        yield f"no reading of {_names(silent)} for {seconds}", hint
    unaccounted = [sensor for sensor in sensors if sensor["unaccounted"]]
    if unaccounted:
        ticks = sum(sensor["unaccounted"] for sensor in unaccounted)
        hint = "this is a fault of the program, see the log"
        yield f"{ticks} ticks of {_names(unaccounted)} are neither taken nor dropped", hint


def reported_reasons(sensors: list[dict[str, Any]]) -> set[str]:
    """The reasons for losses that complaints() has said already."""
    failed = {f"sensor {sensor['name']} failed" for sensor in sensors if sensor["failing"]}
    return failed | {f"sensor {sensor['name']} late" for sensor in sensors if sensor["silent"]}


def _names(sensors: list[dict[str, Any]]) -> str:
    """Such as: a, b and 3 more."""
    names = [sensor["name"] for sensor in sensors]
    shown, more = ", ".join(names[:MOST_NAMES]), len(names) - MOST_NAMES
    if more > 0:
        return f"{shown} and {more} more"
    return " and ".join(names)
