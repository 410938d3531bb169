"""Every option of config.ini: section, name, what is allowed, default and help, in one table.

The configuration file, its man page and `sensor-node-ctl check` are tested against this table.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZE_UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
RATE_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
MAX_NAME_BYTES = 128


@dataclass(frozen=True, slots=True)
class Kind:
    """How an option's text becomes a value: `parse` raises ValueError; `allowed` says what is."""

    parse: Callable[[str], Any]
    allowed: str


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table. `source` limits a sensor's option to that source."""

    section: str
    name: str
    kind: Kind
    default: str
    help: str
    source: str = ""


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
    """At least one: without, nothing would ever be delivered."""
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


def _optional_number(text: str) -> int | None:
    return int(text) if text else None


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) < 1e300:  # also refuses nan
        raise ValueError(text)
    return number


def duration(low: str, high: str, *, empty: bool = False) -> Kind:
    """A duration within bounds; with `empty`, an empty text stands for None."""

    def parse(text: str) -> float | None:
        if empty and not text:
            return None
        seconds = parse_duration(text)
        if not parse_duration(low) <= seconds <= parse_duration(high):
            raise ValueError(text)
        return seconds

    return Kind(parse, f"a duration from {low} to {high}, such as 500ms, 10s, 5m, 24h")


def size(low: str, high: str) -> Kind:
    def parse(text: str) -> int:
        number = parse_size(text)
        if not parse_size(low) <= number <= parse_size(high):
            raise ValueError(text)
        return number

    return Kind(parse, f"a size from {low} to {high}, such as 64MiB")


def integer(low: int, high: int) -> Kind:
    def parse(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise ValueError(text)
        return number

    return Kind(parse, f"a whole number from {low} to {high}")


def number(low: float, high: float) -> Kind:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Kind(parse, f"a number from {low:g} to {high:g}")


def choice(*names: str) -> Kind:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(text)
        return text

    return Kind(parse, "one of " + ", ".join(names))


URL = Kind(parse_url, "http://HOST[:PORT]/PATH or https://…, without a user name in it")
PROXY = Kind(parse_optional_url, "http://HOST:PORT, or nothing")
TEXT = Kind(str, "any text")
NAME = Kind(parse_name, f"printable text of at most {MAX_NAME_BYTES} bytes")
FLOAT = Kind(_finite, "a number")
SEED = Kind(_optional_number, "a whole number, or nothing")
RATE = Kind(parse_rate, "readings a second such as 1 or 2.5, or 6/min, 4/h; at most 1000000")
SUCCESSES = Kind(parse_success_statuses, "HTTP statuses from 200 to 599 such as 200-299, 409")
STATUSES = Kind(parse_statuses, "HTTP statuses from 200 to 599 such as 400, 413, or nothing")

# fmt: off
SCHEMA = (
    Option("node", "id", NAME, "", "Sent with every reading. Empty: the host name."),
    Option("sensor", "source", choice("mock", "host", "command"), "mock", "Where it comes from."),
    Option("sensor", "rate", RATE, "1", "Readings a second; also 6/min, 4/h."),
    Option("sensor", "waveform", choice("constant", "sine", "random-walk"), "sine",
           "Shape of the simulated value.", "mock"),
    Option("sensor", "min", FLOAT, "15", "Lowest simulated value, before noise.", "mock"),
    Option("sensor", "max", FLOAT, "25", "Highest simulated value, before noise.", "mock"),
    Option("sensor", "period", duration("10ms", "365d"), "60s", "Of the sine.", "mock"),
    Option("sensor", "noise", number(0, 1e300), "0",
           "Standard deviation of Gaussian noise added to the value.", "mock"),
    Option("sensor", "seed", SEED, "",
           "Makes a run repeatable. Empty: another run each start.", "mock"),
    Option("sensor", "metric", choice("cpu", "memory", "disk", "temperature"), "cpu",
           "cpu, memory and disk in percent used, temperature in °C.", "host"),
    Option("sensor", "path", TEXT, "/", "File system that metric = disk looks at.", "host"),
    Option("sensor", "command", TEXT, "",
           'Shell command; prints a number, or {"name":…,"value":…[,"timestamp":…]} lines.',
           "command"),
    Option("sensor", "timeout", duration("100ms", "1h"), "10s",
           "The command is killed when it runs longer.", "command"),
    Option("storage", "path", TEXT, "", "The database file. Empty: in the state directory."),
    Option("storage", "max_size", size("4MiB", "1024GiB"), "256MiB", "Bound of the database."),
    Option("storage", "min_free", size("0", "1024GiB"), "64MiB", "Left of the disk to others."),
    Option("storage", "when_full", choice("drop-oldest", "drop-newest"), "drop-oldest",
           "Which undelivered readings to give up when there is no room."),
    Option("storage", "keep_sent", duration("0s", "3650d"), "24h",
           "Delivered readings stay this long for looking up."),
    Option("storage", "max_age", duration("0s", "3650d"), "0s",
           "Give up undelivered readings that are older. 0s: never."),
    Option("storage", "commit_interval", duration("0s", "1m", empty=True), "",
           "Readings are committed together this often. Empty: each at up to 10/s, else 30ms."),
    Option("sink", "url", URL, "http://127.0.0.1:8470/telemetry", "Where readings are POSTed."),
    Option("sink", "format", choice("json", "json-lines"), "json",
           "An array, or one object a line."),
    Option("sink", "batch_size", integer(1, 10_000), "100", "Most readings in one request."),
    Option("sink", "send_interval", duration("0s", "24h"), "0s",
           "Wait until a batch is full or its oldest reading is this old."),
    Option("sink", "compression", choice("none", "gzip"), "none", "Of the request's body."),
    Option("sink", "timeout", duration("100ms", "10m"), "30s", "For a whole request."),
    Option("sink", "delivery", choice("at-least-once", "at-most-once"), "at-least-once",
           "Repeats carry the same ids; at-most-once never repeats and asks you."),
    Option("sink", "token_file", TEXT, "", "File with a bearer token."),
    Option("sink", "username", TEXT, "", "For basic authentication, with password_file."),
    Option("sink", "password_file", TEXT, "", "File with the password."),
    Option("sink", "ca_file", TEXT, "", "CA certificates to trust instead of the system's."),
    Option("sink", "cert_file", TEXT, "", "Client certificate (PEM)."),
    Option("sink", "key_file", TEXT, "", "Its key, if not in cert_file."),
    Option("sink", "proxy", PROXY, "", "HTTP proxy; the environment's is never used."),
    Option("sink", "max_rate", number(0, 1e6), "0", "Readings a second at most. 0: no limit."),
    Option("sink", "success_statuses", SUCCESSES, "200-299", "Answers that mean: delivered."),
    Option("sink", "refused_statuses", STATUSES, "400, 413, 422",
           "Answers that object to the readings themselves."),
    Option("retry", "initial_delay", duration("10ms", "1h"), "1s", "Ceiling of the first wait."),
    Option("retry", "multiplier", number(1, 100), "2", "Growth of the ceiling."),
    Option("retry", "max_delay", duration("10ms", "24h"), "5m", "Highest ceiling."),
    Option("retry", "max_attempts", integer(0, 1_000_000), "0",
           "DEAD after so many answers of a working sink. 0: never give up."),
    Option("process", "senders", integer(1, 64), "2", "How many processes deliver new readings."),
    Option("process", "stop_timeout", duration("1s", "5m"), "10s", "Then they are killed."),
    Option("log", "level", choice("debug", "info", "warning", "error"), "info",
           "Least severe line."),
)
# fmt: on


def options_of(section: str) -> dict[str, Option]:
    """The rows of one section, by name; a sensor's section is `sensor`."""
    return {option.name: option for option in SCHEMA if option.section == section}


SECTIONS = tuple(dict.fromkeys(option.section for option in SCHEMA))
