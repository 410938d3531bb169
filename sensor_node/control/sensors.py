"""The sensors of a status snapshot: how each is by its vital signs, and what is wrong with them."""

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
from sensor_node.storage.queue.vital_signs import Fresh, SensorRow

# The rows of sensors that are well may be so old, and as old as commits are far apart.
NOTE_SECONDS = 10.0
MOST_FAILING = 5
MOST_NAMES = 2


class Rows(NamedTuple):
    """What the database says, by sensor; `fresh` came after the rows. `run`: of whose doing."""

    run: str | None
    rows: dict[str, SensorRow]
    fresh: dict[str, Fresh]


def read(connection: Connection) -> Rows:
    run = key_value.get(connection, "run")
    return Rows(run, vital_signs.read(connection), vital_signs.read_fresh(connection))


def judge(
    known: Rows | None, config: Config, found: dict[str, Any], pid: int | None, now: Moment
) -> list[dict[str, Any]]:
    """Each configured sensor as JSON. `pid`: the supervisor's, if it runs."""
    known = known or Rows(None, {}, {})
    is_this_run = pid is not None and known.run == owner.owner_id_of("supervisor", pid)
    slack = None if _waits_for_database(found) else NOTE_SECONDS
    if slack is not None:
        slack += config.storage.commit_interval or 0.0
    sensors = []
    for sensor in config.sensors:
        row = known.rows.get(sensor.name)
        # Another sensor's readings may bear the name of one that is not watched yet.
        fresh = known.fresh.get(sensor.name) if row else None
        quiet = _quiet_seconds(row, fresh, slack, now) if row and is_this_run else None
        age = _age_seconds(row, fresh, now, by_wall=not is_this_run) if row else None
        one = _json(sensor, row, fresh, age, quiet)
        if not is_this_run:
            one |= {"failing": False, "unaccounted": 0}
        sensors.append(one)
    return sensors


def _waits_for_database(found: dict[str, Any]) -> bool:
    """Then readings are in memory, and no row is written."""
    troubled = [one for one in found["processes"] if one["role"] == "generator" and one["trouble"]]
    storage = found["storage"]
    if not storage:
        return bool(troubled)
    is_tight = storage["log_held"] and storage["log_held"]["tight"]
    return bool(troubled or storage["trouble"] or is_tight)


def _heard_at(row: SensorRow, fresh: Fresh | None) -> float | None:
    """When it gave a reading for certain, in CLOCK_MONOTONIC seconds: it goes by no wall clock."""
    if fresh is None:
        return row.heard_at
    return row.noted_at if row.heard_at is None else max(row.heard_at, row.noted_at)


def _quiet_seconds(
    row: SensorRow, fresh: Fresh | None, slack: float | None, now: Moment
) -> float | None:
    """For how long it has been silent, if it is, whatever became of the generator."""
    heard_at = _heard_at(row, fresh)
    quiet = now.monotonic - (row.since if heard_at is None else heard_at)
    is_overdue = slack is not None and quiet > row.silent_after + slack
    return quiet if is_overdue or (row.silent and not fresh) else None


def _age_seconds(
    row: SensorRow, fresh: Fresh | None, now: Moment, *, by_wall: bool
) -> float | None:
    """Of the last stored reading; the wall clock may have been set since it was captured."""
    last_us = fresh.last_us if fresh else row.last_us
    if last_us is None:
        return None
    by_clock = max(0.0, now.wall - last_us / 1e6)
    heard_at = _heard_at(row, fresh)
    if by_wall or heard_at is None:
        return by_clock
    since = max(0.0, now.monotonic - heard_at)
    return min(by_clock, since) if fresh else since


def _json(
    sensor: SensorConfig,
    row: SensorRow | None,
    fresh: Fresh | None,
    age: float | None,
    quiet: float | None,
) -> dict[str, Any]:
    last_us = fresh.last_us if fresh else row and row.last_us
    return {
        "name": sensor.name,
        "source": sensor.source.name,
        "rate": sensor.rate,
        "last_at": None if last_us is None else utc(last_us / 1e6),
        "last_value": fresh.last_value if fresh else row and row.last_value,
        "age_seconds": None if age is None else round(age, 1),
        "readings": (row.readings if row else 0) + (fresh.readings if fresh else 0),
        "failures": row.failures if row else 0,
        "error": row.error if row else "",
        "error_at": utc(row.error_us / 1e6) if row and row.error_us is not None else None,
        "failing": bool(row and row.failing),
        "silent": quiet is not None,
        "silent_seconds": None if quiet is None else round(quiet, 1),
        "unaccounted": row.unaccounted if row else 0,
    }


def complaints(sensors: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """What is wrong and its hint: of those that fail, that are silent, and the sum of ticks."""
    failing = [one for one in sensors if one["failing"]]
    for one in failing[:MOST_FAILING]:
        what, _, hint = one["error"].rpartition("; ")
        yield f"sensor {one['name']} failed: {what or hint}", hint if what else "see the log"
    if more := failing[MOST_FAILING:]:
        yield f"{len(more)} more sensors fail: {_names(more)}", "sensor-node-ctl status --json"
    silent = [one for one in sensors if one["silent"] and not one["failing"]]
    if silent:
        seconds = span(min(one["silent_seconds"] for one in silent))
        hint = "what it reads may not answer; the log says more"
        yield f"no reading of {_names(silent)} for {seconds}", hint
    astray = [one for one in sensors if one["unaccounted"]]
    if astray:
        ticks = sum(one["unaccounted"] for one in astray)
        hint = "this is a fault of the program, see the log"
        yield f"{ticks} ticks of {_names(astray)} are neither taken nor dropped", hint


def reasons_told(sensors: list[dict[str, Any]]) -> set[str]:
    """The reasons for losses that the complaints speak of."""
    failed = {f"sensor {one['name']} failed" for one in sensors if one["failing"]}
    return failed | {f"sensor {one['name']} late" for one in sensors if one["silent"]}


def _names(sensors: list[dict[str, Any]]) -> str:
    """a, b and 3 more"""
    names = [one["name"] for one in sensors]
    shown, more = ", ".join(names[:MOST_NAMES]), len(names) - MOST_NAMES
    if more > 0:
        return f"{shown} and {more} more"
    return " and ".join(names)
