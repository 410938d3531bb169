"""Moments, durations and numbers of things as people and programs read them."""

import contextlib
from datetime import timedelta

from sensor_node.core.clock import EPOCH, utc_of

SPANS = (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1))


def utc(wall: float | None) -> str | None:
    """For JSON: 2026-11-23T07:44:38Z."""
    if wall is None:
        return None
    return utc_of(wall).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_us(timestamp_us: int) -> str:
    """For JSON, with microseconds."""
    moment = EPOCH + timedelta(microseconds=timestamp_us)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def local(wall: float) -> str:
    """For people: local time with its offset, or UTC in the first and last year that there is."""
    moment = utc_of(wall)
    with contextlib.suppress(OverflowError, ValueError):
        moment = moment.astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S%z")


def span(seconds: float) -> str:
    """Two units at most: 45s, 3m 5s, 2h 10m, 4d 3h."""
    whole = max(0, round(seconds))
    for unit, size, part, part_size in SPANS:
        if whole >= size:
            rest = whole % size // part_size
            return f"{whole // size}{unit} {rest}{part}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


def amount(size: int) -> str:
    """Bytes in the largest unit that leaves a number of at least one."""
    number = float(size)
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def counted(count: int, what: str) -> str:
    """1 reading, 2 readings."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
