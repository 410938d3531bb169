"""What waits for a moment: a probe, or the next try. Made due, or moved along with a set clock."""

import sqlite3

from sensor_node.core.clock import Moment
from sensor_node.storage.journal import clock_steps, events
from sensor_node.storage.queue import due, lookup, message_ids, sink_row, suspects


def probe_now(connection: sqlite3.Connection, now: float) -> None:
    """Whatever was wrong with the sink may be repaired: the next probes are due."""
    sink_row.probe_now(connection, now)
    suspects.probe_now(connection, now)


def note_clock(connection: sqlite3.Connection, now: Moment, boot: str) -> None:
    """Called now and then, and when the wall clock was set; `boot` is the boot id.

    A clock set forward makes due what waits. A clock set back would make it wait as long again, so
    it is made due: tried once too early, and not too late.
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
