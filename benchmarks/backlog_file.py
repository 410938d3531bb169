"""Backlogs of any size: a node's own database, filled with plain SQL while the node is stopped."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.node import Node

# A transaction's worth: what the WAL must hold.
CHUNK = 1_000_000
MESSAGES = """
WITH RECURSIVE number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < :count - 1)
INSERT INTO message(name, value, timestamp_us)
SELECT 'bench', 15.0 + (n % 9973) / 997.3, :first_us + 1000 * n FROM number
"""
# As if each had been delivered alone, the moment that it was captured.
SENT_MESSAGES = """
WITH RECURSIVE number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < :count - 1)
INSERT INTO message(status, name, value, timestamp_us)
SELECT 'SENT', 'bench', 15.0 + (n % 9973) / 997.3, 1000000 * (:first_at + n) FROM number
"""
SENT_RANGES = """
INSERT INTO batch(first_id, last_id, status, attempts, claimed_at, settled_at)
SELECT id, id, 'SENT', 1, timestamp_us / 1e6, timestamp_us / 1e6 FROM message
WHERE id > coalesce((SELECT last_id FROM batch ORDER BY first_id DESC LIMIT 1), 0) ORDER BY id
"""
PENDING = """
SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'message')
       - coalesce((SELECT last_id FROM batch ORDER BY first_id DESC LIMIT 1), 0)
"""
CACHE_KIB = 65_536


def create(node: Node) -> None:
    """The node makes its database, as it does at every first start. Its sink should be absent."""
    with node.running():
        pass


def fill(database: Path, count: int) -> None:
    """Add so many messages, a millisecond apart, that nobody has claimed."""
    first_us = time.time_ns() // 1000 - 1000 * count
    with in_bulk(database) as connection:
        for done in range(0, count, CHUNK):
            insert(connection, min(CHUNK, count - done), first_us + 1000 * done)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def fill_sent(database: Path, count: int) -> None:
    """Add so many delivered messages, a second apart, up to now; nothing may be pending."""
    first_at = int(time.time()) - count
    with in_bulk(database) as connection:
        for done in range(0, count, CHUNK):
            row = {"count": min(CHUNK, count - done), "first_at": first_at + done}
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(SENT_MESSAGES, row)
            connection.execute(SENT_RANGES)
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


@contextlib.contextmanager
def in_bulk(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that syncs only at the end.

    What was written must not be written back while something is measured.
    """
    with opened(database) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        yield connection
    with database.open("rb+") as file:
        os.fsync(file.fileno())


def fill_up(database: Path, count: int) -> None:
    """Add what is missing to so many that nobody has claimed."""
    with opened(database) as connection:
        (pending,) = connection.execute(PENDING).fetchone()
    fill(database, max(0, count - pending))


def insert(connection: sqlite3.Connection, count: int, first_us: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(MESSAGES, {"count": count, "first_us": first_us})
    connection.execute("COMMIT")


@contextlib.contextmanager
def opened(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that never checkpoints by itself: that is the housekeeper's."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=10)
    try:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        yield connection
    finally:
        connection.close()
