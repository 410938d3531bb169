"""The status report as text for people: problems first, then aligned rows."""

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
# Counts that are shown only if they are not zero.
RARE = ("failed", "dead", "in_doubt", "evicted", "dropped")


def render(report: dict[str, Any], *, colour: bool) -> str:
    """The text of a status report; `colour` is for terminals."""
    paint = _paint if colour else _plain
    lines = []
    for problem in report["problems"]:
        lines += [paint(f"! {problem['what']}", RED), f"    {visible(problem['hint'])}"]
    if lines:
        lines.append("")
    good = report["state"] == "running"
    lines.append(_row("node", report["node"]))
    state = paint(report["state"], GREEN if good else YELLOW)
    uptime = report["uptime_seconds"]
    lines.append(f"state      {state}" + ("" if uptime is None else f" for {span(uptime)}"))
    if report["processes"]:
        parts = [
            f"{process['name']} {process['pid'] or process['state']}"
            for process in report["processes"]
        ]
        lines.append(_row("processes", ", ".join(parts)))
    lines += _sensor_lines(report["sensors"])
    if report["counts"]:
        lines += _database_lines(report)
    lines.append(_row("sqlite", report["sqlite"]["version"]))
    lines += [_row("note", note) for note in report["notes"]]
    return "\n".join(lines)


def _sensor_lines(sensors: list[dict[str, Any]]) -> list[str]:
    lines = []
    for sensor in sensors[:MOST_SENSORS]:
        parts = ["no reading yet"]
        if sensor["last_value"] is not None:
            parts = [f"{sensor['last_value']:g}", f"{span(sensor['age_seconds'])} ago"]
            parts.append(counted(sensor["readings"], "reading"))
        if sensor["failures"]:
            parts.append(counted(sensor["failures"], "failure"))
        lines.append(_row("sensor", f"{sensor['name']}: {', '.join(parts)}"))
    if more := len(sensors[MOST_SENSORS:]):
        lines.append(_row("sensor", f"and {more} more"))
    return lines


def _database_lines(report: dict[str, Any]) -> list[str]:
    sink, storage, rates, counts = (report[key] for key in ("sink", "storage", "rates", "counts"))
    # The sink's state is as old as the end of the node.
    verb = "was" if report["state"] in ("stopped", "dead") else "is"
    lines = [_row("sink", f"{sink['url']} {verb} {sink['state']}")]
    for name, meaning in COUNTS:
        if counts[name] or name not in RARE:
            lines.append(_row(name, f"{counts[name]:<12,} {meaning}"))
    if report["oldest_undelivered_seconds"] is not None:
        lines.append(
            _row("behind", f"{span(report['oldest_undelivered_seconds'])} (the oldest undelivered)")
        )
    if rates["captured"] is not None:
        rate = f"{rates['captured']:g}/s captured, {rates['delivered']:g}/s delivered"
        rate += f" in {span(rates['seconds'])}"
        eta = report["drain_eta_seconds"]
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
