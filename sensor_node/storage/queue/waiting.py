"""What waits for a time of the wall clock, as probes and FAILED batches do: makes it due."""

import sqlite3

from sensor_node.core.clock import Moment
from sensor_node.storage.journal import clock_steps, events
from sensor_node.storage.queue import due, lookup, message_ids, sink_row, suspects


def probe_now(connection: sqlite3.Connection, now: float) -> None:
    """Make all probes due: what was wrong with the sink may be repaired."""
    sink_row.probe_now(connection, now)
    suspects.probe_now(connection, now)


def note_clock(connection: sqlite3.Connection, now: Moment, boot: str) -> None:
    """Note where the wall clock stands, and by how much it was set; `boot` is the boot id.

    Called now and then, and when the clock was set. If it was set back, or nobody knows, everything
    that waits is made due: otherwise it would wait longer by that step. So it is tried too early
    once, but not too late. If it was set forward, what waits is due sooner by itself.
    """
    first = lookup.first_undelivered(connection)
    step = clock_steps.note(connection, now, boot, first, message_ids.highest_id(connection))
    if step:
        events.record(connection, now.wall, "clock step", f"{step:+.1f} s")
        sink_row.clock_set(connection, step, now.wall)
        suspects.clock_set(connection, step, now.wall)
    if step is None or step < 0:
        due.wait_no_longer(connection, now.wall)
        sink_row.wait_no_longer(connection, now.wall)
        suspects.probe_now(connection, now.wall)
