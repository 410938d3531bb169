"""Lines for the log that wait until what they tell of is committed."""

import sqlite3
from collections.abc import Iterable
from typing import Any, NamedTuple

from sensor_node.system.log import say_event


class Line(NamedTuple):
    """`level` as in logging; kind and detail as in the table event."""

    level: int
    kind: str
    detail: str


class SayingConnection(sqlite3.Connection):
    """A connection that keeps the lines of the transaction that is open."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lines: list[Line] = []


def keep(connection: sqlite3.Connection, line: Line) -> None:
    """Of a transaction that is rolled back, nothing is said."""
    lines: list[Line] = connection.lines  # type: ignore[attr-defined]
    lines.append(line)


def say(lines: Iterable[Line]) -> None:
    for line in lines:
        say_event(*line)
