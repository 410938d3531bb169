"""`status` for people: problems first, then a short aligned account."""

from typing import Any

from sensor_node.control.times import amount, counted, span
from sensor_node.system.text import visible, visible_lines

RED, YELLOW, GREEN, PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"
COUNTS = (
    ("captured", "readings stored since the database was made"),
    ("pending", "waiting for their first try (PENDING)"),
    ("in_flight", "in a request at this moment (SENDING)"),
    ("failed", "tried, waiting for the next try (FAILED)"),
    ("sent", "the sink has them (SENT)"),
    ("dead", "the sink refuses them (DEAD)"),
    ("in_doubt", "nobody knows whether the sink has them (IN_DOUBT)"),
    ("evicted", "given up for want of room or for their age"),
    ("dropped", "never stored"),
)
MOST_SENSORS = 20
# Shown only when there is something to show.
RARE = ("failed", "dead", "in_doubt", "evicted", "dropped")


def render(found: dict[str, Any], *, colour: bool) -> str:
    """Lines for a person, coloured for a terminal only."""
    paint = _paint if colour else _plain
    lines = []
    for problem in found["problems"]:
        lines += [paint(f"! {problem['what']}", RED), f"    {visible(problem['hint'])}"]
    if lines:
        lines.append("")
    good = found["state"] == "running"
    lines.append(_row("node", found["node"]))
    state = paint(found["state"], GREEN if good else YELLOW)
    uptime = found["uptime_seconds"]
    lines.append(f"state      {state}" + ("" if uptime is None else f" for {span(uptime)}"))
    if found["processes"]:
        parts = [f"{one['name']} {one['pid'] or one['state']}" for one in found["processes"]]
        lines.append(_row("processes", ", ".join(parts)))
    lines += _of_sensors(found["sensors"])
    if found["counts"]:
        lines += _of_database(found)
    lines.append(_row("sqlite", found["sqlite"]["version"]))
    lines += [_row("note", note) for note in found["notes"]]
    return "\n".join(lines)


def _of_sensors(sensors: list[dict[str, Any]]) -> list[str]:
    lines = []
    for one in sensors[:MOST_SENSORS]:
        parts = ["no reading yet"]
        if one["last_value"] is not None:
            parts = [f"{one['last_value']:g}", f"{span(one['age_seconds'])} ago"]
            parts.append(counted(one["readings"], "reading"))
        if one["failures"]:
            parts.append(counted(one["failures"], "failure"))
        lines.append(_row("sensor", f"{one['name']}: {', '.join(parts)}"))
    if left := len(sensors[MOST_SENSORS:]):
        lines.append(_row("sensor", f"and {left} more"))
    return lines


def _of_database(found: dict[str, Any]) -> list[str]:
    sink, storage, rates, counts = (found[key] for key in ("sink", "storage", "rates", "counts"))
    # Nobody has looked since the node ended.
    verb = "was" if found["state"] in ("stopped", "dead") else "is"
    lines = [_row("sink", f"{sink['url']} {verb} {sink['state']}")]
    for name, meaning in COUNTS:
        if counts[name] or name not in RARE:
            lines.append(_row(name, f"{counts[name]:<12,} {meaning}"))
    if found["oldest_undelivered_seconds"] is not None:
        lines.append(
            _row("behind", f"{span(found['oldest_undelivered_seconds'])} (the oldest undelivered)")
        )
    if rates["captured"] is not None:
        rate = f"{rates['captured']:g}/s captured, {rates['delivered']:g}/s delivered"
        rate += f" in {span(rates['seconds'])}"
        eta = found["drain_eta_seconds"]
        lines.append(_row("rates", rate + (f", drained in {span(eta)}" if eta else "")))
    used, limit = amount(storage["used_bytes"]), amount(storage["limit_bytes"])
    free = amount(storage["disk_free_bytes"])
    lines.append(_row("database", f"{storage['path']}, {used} of {limit}, {free} free on the disk"))
    return lines


def _row(name: str, value: str) -> str:
    return f"{name.replace('_', ' '):<10} {visible(value)}"


def _paint(text: str, colour: str) -> str:
    return f"{colour}{visible_lines(text)}{PLAIN}"


def _plain(text: str, colour: str) -> str:
    return visible_lines(text)
