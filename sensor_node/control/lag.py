"""Whether delivery cannot keep up with capture, and what limits it."""

from typing import Any

from sensor_node.config.loader import SinkConfig
from sensor_node.control.times import counted
from sensor_node.core.clock import Moment
from sensor_node.core.settlement import SinkRecord
from sensor_node.storage.queue.lookup import Requests

# Delivery lags only if its oldest reading has waited this long for its first try.
PATIENCE_SECONDS = 60.0
# Rates over a shorter time do not count. It is less than a minute: samples lie some seconds apart.
LEAST_WINDOW_SECONDS = 50.0
# An option limits delivery if this share of what it allows is used.
NEARLY = 0.8


def find(
    sink: SinkRecord,
    config: SinkConfig,
    rates: dict[str, float | None],
    oldest_us: int | None,
    requests: Requests,
    now: Moment,
) -> dict[str, Any] | None:
    """None if delivery keeps up, or if it is too early to tell. Readings a second, and seconds.

    `oldest_us` is when the oldest reading that was not tried yet was captured; None without one.
    """
    captured, delivered = rates["captured"] or 0.0, rates["delivered"] or 0.0
    if not sink.up or (rates["seconds"] or 0.0) < LEAST_WINDOW_SECONDS or captured <= delivered:
        return None
    patience = config.send_interval + PATIENCE_SECONDS
    if oldest_us is None or now.wall - oldest_us / 1e6 < patience:
        return None
    limited_by = "link"
    if config.max_rate and delivered >= NEARLY * config.max_rate:
        limited_by = "max_rate"
    elif requests.readings >= NEARLY * config.batch_size:
        limited_by = "batch_size"
    elif sink.isolated:
        limited_by = "isolated"
    return {
        "captured": captured,
        "delivered": delivered,
        "request_seconds": round(requests.seconds, 3),
        "request_readings": round(requests.readings, 1),
        "limited_by": limited_by,
    }


def complaint(lag: dict[str, Any]) -> tuple[str, str]:
    """What is wrong, and its hint, of what find() returned."""
    rates = f"{lag['captured']:.3g} readings/s are captured and {lag['delivered']:.3g}/s delivered"
    description = f"delivery cannot keep up: {rates}"
    if readings := round(lag["request_readings"]):
        seconds = lag["request_seconds"]
        description += f"; a request with {counted(readings, 'reading')} takes {seconds:.2g} s"
    return description, HINTS[lag["limited_by"]]


HINTS = {
    "max_rate": "raise [sink] max_rate, or lower the rates of the sensors",
    "batch_size": "raise [sink] batch_size or [process] senders, or lower the rates of the sensors",
    "isolated": "batches are short, as those of a sensor that is set apart lie between: "
    "see to that sensor",
    "link": "the link or the sink takes no more at a time: set [sink] compression = gzip, "
    "or lower the rates of the sensors",
}
