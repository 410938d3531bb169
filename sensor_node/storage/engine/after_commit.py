"""Lines for the log, which are written only when the transaction that they tell of is committed."""

import sqlite3
from collections.abc import Iterable
from typing import Any, NamedTuple

from sensor_node.system.log import say_event


class Line(NamedTuple):
    """`level` as in logging; kind and detail as in the table event."""

    level: int
    kind: str
    detail: str


class LoggingConnection(sqlite3.Connection):
    """A connection that keeps the log lines of its open transaction."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lines: list[Line] = []


def keep(connection: sqlite3.Connection, line: Line) -> None:
    """Keep a line until the commit; a transaction that is rolled back leaves none in the log."""
    lines: list[Line] = connection.lines  # type: ignore[attr-defined]
    lines.append(line)


def write(lines: Iterable[Line]) -> None:
    """Write the lines of a committed transaction into the log."""
    for line in lines:
        say_event(*line)
