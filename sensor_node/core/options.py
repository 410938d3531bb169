"""An option of the configuration, and the kinds of values that options have."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZE_UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
RATE_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
Number = TypeVar("Number", int, float)
MAX_NAME_BYTES = 128  # of a node, a sensor or a reading, in UTF-8


@dataclass(frozen=True, slots=True)
class Kind:
    """How an option's text becomes a value, and what a message may show of the text."""

    parse: Callable[[str], Any]  # raises ValueError
    allowed: str  # which texts `parse` takes, for a person
    is_url: bool = False  # the text may hold a password where a URL has it
    is_command: bool = False  # a shell's: it may hold a password anywhere, and be quoted


@dataclass(frozen=True, slots=True)
class Option:
    """One option of config.ini."""

    section: str
    name: str
    kind: Kind
    default: str  # as it would stand in the file
    help: str  # one sentence
    source: str = ""  # of a sensor: the source that has the option; empty: all have it


class Named(Protocol):
    """A row of a table, as a choice needs it."""

    @property
    def name(self) -> str: ...


def parse_duration(text: str) -> float:
    """Seconds of `500ms`, `10s`, `5m`, `24h`, `7d` or `0`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if match:
        return float(match[1]) * DURATION_UNITS[match[2]]
    if text == "0":
        return 0.0
    raise ValueError(text)


def parse_size(text: str) -> int:
    """Bytes of `512KiB`, `64MiB`, `2GiB` or a plain number."""
    match = re.fullmatch(r"(\d+) ?(KiB|MiB|GiB|)", text)
    if not match:
        raise ValueError(text)
    return int(match[1]) * SIZE_UNITS[match[2]]


def parse_rate(text: str) -> float:
    """Readings a second of `2.5`, `6/min`, `4/h` or `10/s`."""
    number, slash, unit = text.partition("/")
    if slash and unit not in RATE_UNITS:
        raise ValueError(text)
    rate = float(number) / RATE_UNITS[unit or "s"]
    if not 1e-6 <= rate <= 1e6:
        raise ValueError(text)
    return rate


def parse_statuses(text: str) -> frozenset[int]:
    """HTTP statuses of `200-299, 409`."""
    statuses: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not 200 <= low <= high <= 599:
            raise ValueError(text)
        statuses.update(range(low, high + 1))
    return frozenset(statuses)


def parse_success_statuses(text: str) -> frozenset[int]:
    """At least one: without any, nothing would ever be delivered."""
    statuses = parse_statuses(text)
    if not statuses:
        raise ValueError(text)
    return statuses


def parse_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError(text)
    if parts.port == 0 or re.search(r"\s", text) or not text.isascii():
        raise ValueError(text)
    return text


def parse_optional_url(text: str) -> str:
    return parse_url(text) if text else ""


def parse_name(text: str) -> str:
    if len(text.encode()) > MAX_NAME_BYTES or not text.isprintable():
        raise ValueError(text)
    return text


def _parse_optional_integer(text: str) -> int | None:
    return int(text) if text else None


def _parse_finite(text: str) -> float:
    number = float(text)
    if not abs(number) < 1e300:  # also refuses nan
        raise ValueError(text)
    return number


def _within(parse: Callable[[str], Number], low: Number, high: Number) -> Callable[[str], Number]:
    """The same parser, which raises ValueError for what lies outside the bounds, and for nan."""

    def parse_within(text: str) -> Number:
        value = parse(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse_within


def duration(low: str, high: str, *, empty: bool = False) -> Kind:
    """A duration within bounds, in seconds; with `empty`, an empty text stands for None."""
    parse = _within(parse_duration, parse_duration(low), parse_duration(high))
    allowed = f"a duration from {low} to {high}, such as 500ms, 10s, 5m, 24h"
    return Kind((lambda text: parse(text) if text else None) if empty else parse, allowed)


def size(low: str, high: str) -> Kind:
    """A size within bounds, in bytes."""
    parse = _within(parse_size, parse_size(low), parse_size(high))
    return Kind(parse, f"a size from {low} to {high}, such as 64MiB")


def integer(low: int, high: int) -> Kind:
    return Kind(_within(int, low, high), f"a whole number from {low} to {high}")


def number(low: float, high: float) -> Kind:
    return Kind(_within(float, low, high), f"a number from {low:g} to {high:g}")


def choice(*names: str) -> Kind:
    """One of some names; the value is the name."""
    return _choice({name: name for name in names})


def row_of(table: Sequence[Named]) -> Kind:
    """The name of a row of a table; the value is the row."""
    return _choice({row.name: row for row in table})


def _choice(values: Mapping[str, object]) -> Kind:
    def parse(text: str) -> object:
        if text not in values:
            raise ValueError(text)
        return values[text]

    return Kind(parse, "one of " + ", ".join(values))


URL = Kind(
    parse_url, "http://HOST[:PORT]/PATH or https://…, without a user name in it", is_url=True
)
PROXY = Kind(parse_optional_url, "http://HOST:PORT, or nothing", is_url=True)
TEXT = Kind(str, "any text")
COMMAND = Kind(str, "a shell command", is_command=True)
NAME = Kind(parse_name, f"printable text of at most {MAX_NAME_BYTES} bytes")
FLOAT = Kind(_parse_finite, "a number")
SEED = Kind(_parse_optional_integer, "a whole number, or nothing")
RATE = Kind(parse_rate, "readings a second such as 1 or 2.5, or 6/min, 4/h; at most 1000000")
SUCCESSES = Kind(parse_success_statuses, "HTTP statuses from 200 to 599 such as 200-299, 409")
STATUSES = Kind(parse_statuses, "HTTP statuses from 200 to 599 such as 400, 413, or nothing")
