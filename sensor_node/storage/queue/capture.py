"""Stores readings as PENDING messages, each with the next id of the generator's stream."""

import itertools
import sqlite3
from pathlib import Path

from sensor_node.core.model import DatedReading, Reading, Readings
from sensor_node.storage.journal import runs
from sensor_node.storage.journal.runs import Loss, NodeIdentity
from sensor_node.storage.queue import streams, waiting

INSERT_READING = "INSERT INTO message(name, value, timestamp_us) VALUES (?, ?, ?)"
INSERT_DATED = """
INSERT INTO message(name, value, timestamp_us, captured_us) VALUES (?, ?, ?, ?)
"""
INSERT = {Reading: INSERT_READING, DatedReading: INSERT_DATED}
GONE = Loss("database gone", "it was deleted or moved while the node ran, with what it had to send")


def begin(
    connection: sqlite3.Connection,
    identity: NodeIdentity,
    now: float,
    run: str,
    damaged: list[Path],
    *,
    follows: bool,
) -> int | None:
    """Note that a generator is about to capture, and begin a stream. Returns what runs.begin does.

    `damaged`: the newest file in quarantine, if any: this database may have taken its place.
    `follows`: this process has just captured into another file under the same name.
    """
    loss = None
    if streams.last(connection) is None:  # nothing was ever captured into this file
        if damaged:
            loss = Loss("database damaged", f"it was moved to {damaged[0]}")
        elif follows:
            loss = GONE
    last_us = runs.begin(connection, identity, now, run, loss)
    streams.begin(connection, identity.node)
    waiting.probe_now(connection, now)
    return last_us


def store(connection: sqlite3.Connection, readings: Readings) -> None:
    """Insert the readings in order. The time of capture is left out if it is the reading's own."""
    for kind, alike in itertools.groupby(readings, type):
        connection.executemany(INSERT[kind], alike)
