"""Small facts that the node keeps about itself, as text by name."""

import sqlite3

GET = "SELECT value FROM key_value WHERE name = :name"
PUT = "INSERT OR REPLACE INTO key_value(name, value) VALUES (:name, :value)"


def get(connection: sqlite3.Connection, name: str) -> str | None:
    """None if there is none of that name."""
    row = connection.execute(GET, {"name": name}).fetchone()
    return str(row[0]) if row else None


def put(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute(PUT, {"name": name, "value": value})
