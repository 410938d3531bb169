"""The naive design, to compare with: an index on status, and every message its own transactions.

Usage: naive.py PORT COUNT SECONDS DIRECTORY    by the node's Python. Fills a table with COUNT
messages, then claims, sends and settles one at a time; prints messages a second.
"""

import json
import sqlite3
import sys
import time
from pathlib import Path

import requests

SCHEMA = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "CREATE TABLE message(id INTEGER PRIMARY KEY AUTOINCREMENT, status TEXT NOT NULL "
    "DEFAULT 'PENDING', name TEXT NOT NULL, value REAL NOT NULL, timestamp_us INTEGER NOT NULL)",
    "CREATE INDEX message_status ON message(status)",
)
INSERT = "INSERT INTO message(name, value, timestamp_us) VALUES ('bench', 20.0, ?)"
CLAIM = """
UPDATE message SET status = 'SENDING'
WHERE id = (SELECT id FROM message WHERE status = 'PENDING' LIMIT 1)
RETURNING id, name, value, timestamp_us
"""
SETTLE = "UPDATE message SET status = 'SENT' WHERE id = ?"


def deliver_one(connection: sqlite3.Connection, session: requests.Session, url: str) -> bool:
    """False when there is nothing left. Each statement is its own transaction."""
    rows = connection.execute(CLAIM).fetchall()
    if not rows:
        return False
    names = ("id", "name", "value", "timestamp")
    body = json.dumps(dict(zip(names, rows[0], strict=True)), separators=(",", ":"))
    session.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=30)
    connection.execute(SETTLE, rows[0][:1])
    return True


def main() -> None:
    port, count, seconds, directory = sys.argv[1:]
    connection = sqlite3.connect(Path(directory, "naive.db"), isolation_level=None)
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute("BEGIN")
    connection.executemany(INSERT, ((number,) for number in range(int(count))))
    connection.execute("COMMIT")
    session, url = requests.Session(), f"http://127.0.0.1:{port}/telemetry"
    session.trust_env = False
    done, began = 0, time.monotonic()
    while time.monotonic() < began + float(seconds) and deliver_one(connection, session, url):
        done += 1
    print(json.dumps(done / (time.monotonic() - began)))


if __name__ == "__main__":
    main()
