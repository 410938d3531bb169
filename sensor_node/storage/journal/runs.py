"""What the appliance notes in the database when it starts and stops."""

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sensor_node.core.clock import Moment
from sensor_node.core.model import Counts
from sensor_node.storage.journal import clock_steps, events, key_value
from sensor_node.storage.queue import (
    due,
    lookup,
    message_ids,
    retention,
    sink_row,
    streams,
    suspects,
)

LAST_RUN_EVENT = """
SELECT kind FROM event WHERE id = max(
  coalesce((SELECT max(id) FROM event WHERE kind = 'started'), 0),
  coalesce((SELECT max(id) FROM event WHERE kind = 'stopped'), 0))
"""
LAST_GAP = """
SELECT max(last) FROM event WHERE kind IN ('dropped', 'not running') AND last <= :now_us
"""
LAST_KEPT = """
SELECT max(CAST(value AS INTEGER)) FROM key_value
WHERE name = 'accounted_us' AND CAST(value AS INTEGER) <= :now_us
"""
FORGET_SAMPLES = "DELETE FROM sample"
ADD_SAMPLE = "INSERT OR REPLACE INTO sample(at, captured, sent) VALUES (:at, :captured, :sent)"
LAST_SAMPLE = "SELECT captured, sent FROM sample ORDER BY at DESC LIMIT 1"
OLD_SAMPLES = "DELETE FROM sample WHERE at < :before"
SAMPLES = "SELECT at, captured, sent FROM sample WHERE at <= :now ORDER BY at"
# Shorter silences are the ordinary time between two readings or of a reload.
GAP_SECONDS = 1.0
SAMPLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who captures; `settings` is the effective configuration."""

    node: str
    settings: dict[str, str]


def begin(
    connection: sqlite3.Connection,
    who: NodeIdentity,
    now: float,
    run: str,
    before: list[Path],
    *,
    follows: bool = False,
) -> int | None:
    """Called by each generator before its first commit, whose ids are of a stream of its own.

    `run` is the same for all of one run.

    Returns, to one that replaces another, up to when readings are accounted for, stored or dropped,
    in microseconds; None to the first that came so far, and where nobody knows any more.
    `before`: the damaged database, if any, in whose place this one may be. `follows`: there was one
    in its place a moment ago.
    """
    last_us = _accounted_us(connection, now)
    resumed = key_value.get(connection, "run") == run
    if not resumed and last_us is not None:
        _note_gap(connection, last_us, now)
    if not resumed and not ended_in_order(connection):
        events.record(connection, now, "unclean stop", "the last run did not stop by itself")
    is_fresh = streams.last(connection) is None
    if is_fresh and before:
        events.record(connection, now, "database damaged", f"it was moved to {before[0]}")
    elif is_fresh and follows:
        gone = "it was deleted or moved while the node ran, with what it had to send"
        events.record(connection, now, "database gone", gone)
    if not resumed:
        key_value.put(connection, "run", run)
        connection.execute(FORGET_SAMPLES)
        events.record(connection, now, "started", f"node {who.node}")
    _note_changes(connection, who, now)
    streams.begin(connection, who.node)
    sink_row.probe_now(connection, now)
    suspects.probe_now(connection, now)
    return last_us if resumed else None


def end(connection: sqlite3.Connection, now: float) -> None:
    """Called by the last process of an orderly stop."""
    events.record(connection, now, "stopped", "in good order")


def ended_in_order(connection: sqlite3.Connection) -> bool:
    """Whether the last run has noted its end, if there was one."""
    last = connection.execute(LAST_RUN_EVENT).fetchone()
    return last is None or last[0] == "stopped"


def keep_account(connection: sqlite3.Connection, now: float) -> None:
    """Called before other nodes' readings, or of other days, become the last ones."""
    last_us = _accounted_us(connection, now)
    if last_us is not None:
        key_value.put(connection, "accounted_us", str(last_us))


def note_clock(connection: sqlite3.Connection, now: Moment, boot: str) -> None:
    """Called now and then, and when the wall clock was set; `boot` is the boot id.

    A clock set forward makes due what waits. One set back would make it wait as long again, so
    that it is made due: tried once too early, and not too late.
    """
    step = clock_steps.note(connection, now, boot, lookup.first_undelivered(connection))
    if step:
        events.record(connection, now.wall, "clock step", f"{step:+.1f} s")
        sink_row.clock_set(connection, step, now.wall)
        suspects.clock_set(connection, step, now.wall)
    if step is None or step < 0:
        due.wait_no_longer(connection, now.wall)
        sink_row.wait_no_longer(connection, now.wall)
        suspects.probe_now(connection, now.wall)


def sample(connection: sqlite3.Connection, at: float, counts: Counts) -> None:
    """Keep a minute of samples; none is added while nothing changes."""
    last = connection.execute(LAST_SAMPLE).fetchone()
    if last != (counts.captured, counts.sent):
        row = {"at": at, "captured": counts.captured, "sent": counts.sent}
        connection.execute(ADD_SAMPLE, row)
        connection.execute(OLD_SAMPLES, {"before": at - SAMPLE_SECONDS})


def samples(connection: sqlite3.Connection, now: float) -> list[tuple[float, int, int]]:
    """Moment (CLOCK_BOOTTIME), captured and sent, oldest first."""
    return connection.execute(SAMPLES, {"now": now}).fetchall()


def _accounted_us(connection: sqlite3.Connection, now: float) -> int | None:
    """The time of the last reading, or of the end of the last gap that is told of.

    What is in the future was noted by a clock that has been set back since.
    """
    now_us = {"now_us": int(now * 1e6)}
    stored_us = retention.captured_at_us(connection, message_ids.highest_id(connection))
    (gap_us,) = connection.execute(LAST_GAP, now_us).fetchone()
    (kept_us,) = connection.execute(LAST_KEPT, now_us).fetchone()
    return max((us for us in (stored_us, gap_us, kept_us) if us is not None), default=None)


def _note_gap(connection: sqlite3.Connection, last_us: int, now: float) -> None:
    gap = now - last_us / 1e6
    if gap >= GAP_SECONDS:
        span = {"first": last_us, "last": int(now * 1e6)}
        events.record(connection, now, "not running", f"no capture for {gap:.1f} s", **span)


def _note_changes(connection: sqlite3.Connection, who: NodeIdentity, now: float) -> None:
    before = key_value.get(connection, "settings")
    old = json.loads(before) if before else None
    if old is not None and old != who.settings:
        names = [key for key in old.keys() | who.settings if old.get(key) != who.settings.get(key)]
        events.record(connection, now, "configuration changed", ", ".join(sorted(names)))
    if old != who.settings:
        key_value.put(connection, "settings", json.dumps(who.settings))
