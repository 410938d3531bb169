"""Readings become rows: PENDING, each with the next id."""

import itertools
import sqlite3

from sensor_node.core.model import DatedReading, Reading, Readings

INSERT_READING = "INSERT INTO message(name, value, timestamp_us) VALUES (?, ?, ?)"
INSERT_DATED = """
INSERT INTO message(name, value, timestamp_us, captured_us) VALUES (?, ?, ?, ?)
"""
INSERT = {Reading: INSERT_READING, DatedReading: INSERT_DATED}


def store(connection: sqlite3.Connection, readings: Readings) -> None:
    """In order. The time of capture takes no room where it is the reading's own."""
    for kind, alike in itertools.groupby(readings, type):
        connection.executemany(INSERT[kind], alike)
