"""Moments, durations, sizes and counts, as people and programs read them."""

import contextlib
from datetime import timedelta

from sensor_node.core.clock import EPOCH, utc_of

SPANS = (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1))


def utc(wall: float | None) -> str | None:
    """Wall seconds for JSON: 2026-11-23T07:44:38Z."""
    if wall is None:
        return None
    return utc_of(wall).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_us(timestamp_us: int) -> str:
    """Microseconds since 1970 for JSON: 2026-11-23T07:44:38.000001Z."""
    moment = EPOCH + timedelta(microseconds=timestamp_us)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def local(wall: float) -> str:
    """Wall seconds for people: local time with its offset; UTC at the ends of years 1 and 9999."""
    moment = utc_of(wall)
    with contextlib.suppress(OverflowError, ValueError):
        moment = moment.astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S%z")


def span(seconds: float) -> str:
    """Seconds for people, in two units at most: 45s, 3m 5s, 2h 10m, 4d 3h."""
    whole = max(0, round(seconds))
    for unit, size, part, part_size in SPANS:
        if whole >= size:
            rest = whole % size // part_size
            return f"{whole // size}{unit} {rest}{part}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


def amount(size: int) -> str:
    """Bytes for people, in the largest unit that gives at least 1: 512 B, 1.5 KiB, 3.0 GiB."""
    number = float(size)
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def counted(count: int, noun: str) -> str:
    """A count and its noun, with an s but for 1: 1 reading, 2 readings."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
