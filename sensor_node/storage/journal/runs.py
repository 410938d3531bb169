"""When the node captured and when it did not: its starts and stops, and the gaps between them."""

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from sensor_node.storage.journal import events, key_value, samples

LAST_RUN_EVENT = """
SELECT kind FROM event WHERE id = max(
  coalesce((SELECT max(id) FROM event WHERE kind = 'started'), 0),
  coalesce((SELECT max(id) FROM event WHERE kind = 'stopped'), 0))
"""
LAST_STORED = """
SELECT coalesce(captured_us, timestamp_us) FROM message
WHERE id = (SELECT seq FROM sqlite_sequence WHERE name = 'message')
"""
LAST_GAP = """
SELECT max(last) FROM event WHERE kind IN ('dropped', 'not running') AND last <= :now_us
"""
LAST_ACCOUNTED = """
SELECT max(CAST(value AS INTEGER)) FROM key_value
WHERE name = 'accounted_us' AND CAST(value AS INTEGER) <= :now_us
"""
# A shorter silence is the ordinary time between two readings, or a reload.
GAP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who captures.

    `node`: its id. `settings`: its effective configuration, by "[section] option".
    """

    node: str
    settings: dict[str, str]


@dataclass(frozen=True, slots=True)
class Loss:
    """Another database was in this place before this one: the event's kind and detail."""

    kind: str
    detail: str


def begin(
    connection: sqlite3.Connection, identity: NodeIdentity, now: float, run: str, loss: Loss | None
) -> int | None:
    """Note that a generator starts: each calls this before its first commit.

    `run` names the run of the node; all its generators pass the same. If an earlier generator of
    the run has called this, the answer is up to when all readings are accounted for, as stored or
    dropped, in microseconds since 1970. None for the first of a run, or if nobody knows.
    """
    last_us = _accounted_us(connection, now)
    resumed = key_value.get(connection, "run") == run
    if not resumed and last_us is not None:
        _note_gap(connection, last_us, now)
    if not resumed and not ended_in_order(connection):
        events.record(connection, now, "unclean stop", "the last run did not stop by itself")
    if loss:
        events.record(connection, now, loss.kind, loss.detail)
    if not resumed:
        key_value.put(connection, "run", run)
        samples.forget(connection)
        events.record(connection, now, "started", f"node {identity.node}")
    _note_changes(connection, identity, now)
    return last_us if resumed else None


def end(connection: sqlite3.Connection, now: float) -> None:
    """Note an orderly stop: its last process calls this."""
    events.record(connection, now, "stopped", "in good order")


def ended_in_order(connection: sqlite3.Connection) -> bool:
    """Whether the last run has noted its end. True if there was no run yet."""
    row = connection.execute(LAST_RUN_EVENT).fetchone()
    return row is None or row[0] == "stopped"


def keep_account(connection: sqlite3.Connection, now: float) -> None:
    """Keep the time up to which all is accounted for, before salvage adds older readings.

    Afterwards the newest row no longer tells that time.
    """
    last_us = _accounted_us(connection, now)
    if last_us is not None:
        key_value.put(connection, "accounted_us", str(last_us))


def _accounted_us(connection: sqlite3.Connection, now: float) -> int | None:
    """The latest of: the last reading, the end of the last gap in the history, what was kept.

    In microseconds since 1970. Gaps and kept times in the future do not count: the clock has been
    set back since.
    """
    now_us = {"now_us": int(now * 1e6)}
    stored = connection.execute(LAST_STORED).fetchone()
    gap = connection.execute(LAST_GAP, now_us).fetchone()
    accounted = connection.execute(LAST_ACCOUNTED, now_us).fetchone()
    times_us = (int(row[0]) for row in (stored, gap, accounted) if row and row[0] is not None)
    return max(times_us, default=None)


def _note_gap(connection: sqlite3.Connection, last_us: int, now: float) -> None:
    seconds = now - last_us / 1e6
    if seconds >= GAP_SECONDS:
        span: dict[str, Any] = {"first": last_us, "last": int(now * 1e6)}
        events.record(connection, now, "not running", f"no capture for {seconds:.1f} s", **span)


def _note_changes(connection: sqlite3.Connection, identity: NodeIdentity, now: float) -> None:
    text = key_value.get(connection, "settings")
    old, new = json.loads(text) if text else None, identity.settings
    if old is not None and old != new:
        names = [name for name in old.keys() | new if old.get(name) != new.get(name)]
        events.record(connection, now, "configuration changed", ", ".join(sorted(names)))
    if old != new:
        key_value.put(connection, "settings", json.dumps(new))
