"""Recognizes answers that look valid but come from somebody else than the sink."""

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from sensor_node.core.model import Verdict
from sensor_node.delivery import hints

if TYPE_CHECKING:
    from sensor_node.delivery.answers import SinkResponse

# A byte order mark may come first. What is not UTF-8, as the mark of UTF-16, was read as U+FFFD.
MARKUP = re.compile(r"[\s\ufeff\ufffd]*<")
MARKUP_TYPE = re.compile(r"\s*(text/html|\w+/([^;,]*\+)?xml)\s*([;,]|$)", re.IGNORECASE)
# For a body that was cut off: "errors": true before the first value that is an array or an object.
ERRORS = re.compile(r'[\s\ufeff]*\{[^{}\[\]]*"errors"\s*:\s*true\b')
# Databases, by a header of theirs. They are no sinks: they answer 2xx to a body that they cannot
# read, or take it for something else.
ENGINES = {"X-Influxdb-Version": "InfluxDB", "X-Server-Hostname": "VictoriaMetrics"}


class Stranger(NamedTuple):
    """Somebody who answers in the sink's place."""

    description: str  # who it may be, for people
    hint: str  # what a person should do about it


def recognize(response: "SinkResponse", verdict: Verdict) -> Stranger | None:
    """Who answers so, if not the sink. `verdict`: of the response's status alone."""
    if response.engine and verdict in (Verdict.DELIVERED, Verdict.REFUSED):
        return Stranger(f"{response.engine} answers, which stores nothing of this", hints.ENGINE)
    if response.status < 300 or verdict is Verdict.DELIVERED:
        if MARKUP_TYPE.match(response.content_type) or MARKUP.match(response.body):
            return Stranger("a web page, not the sink (captive portal?)", hints.PORTAL)
        if _has_errors(response.body):
            return Stranger('its answer says "errors": true', hints.ENGINE)
    return None


def _has_errors(body: str) -> bool:
    """Whether it is a JSON object with `"errors": true`: bulk interfaces send that with a 200."""
    try:
        content = json.loads(body.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return ERRORS.match(body) is not None
    return isinstance(content, dict) and content.get("errors") is True
