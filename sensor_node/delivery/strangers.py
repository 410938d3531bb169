"""Answers that would count, did they not betray that somebody else than the sink gives them."""

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from sensor_node.core.model import Verdict
from sensor_node.delivery import hints

if TYPE_CHECKING:
    from sensor_node.delivery.answers import SinkResponse

# Text that cannot be read as UTF-8 has U+FFFD instead, as has the mark at the start of UTF-16.
MARKUP = re.compile(r"[\s\ufeff\ufffd]*<")
MARKUP_TYPE = re.compile(r"\s*(text/html|\w+/([^;,]*\+)?xml)\s*([;,]|$)", re.IGNORECASE)
# Of an answer that is too long to be read whole: before the first value that is not a plain one.
ERRORS = re.compile(r'[\s\ufeff]*\{[^{}\[\]]*"errors"\s*:\s*true\b')
# By a header of theirs. They answer 2xx to what they cannot read, or read the body as something
# else, so they are not the sink of these formats.
ENGINES = {"X-Influxdb-Version": "InfluxDB", "X-Server-Hostname": "VictoriaMetrics"}


class Stranger(NamedTuple):
    """Who answers, and what a person should do about it."""

    what: str
    hint: str


def recognize(answer: "SinkResponse", verdict: Verdict) -> Stranger | None:
    """Who gives this answer, if not the sink; `verdict` is what its status says."""
    if answer.engine and verdict in (Verdict.DELIVERED, Verdict.REFUSED):
        return Stranger(f"{answer.engine} answers, which stores nothing of this", hints.ENGINE)
    if answer.status < 300 or verdict is Verdict.DELIVERED:
        if MARKUP_TYPE.match(answer.content_type) or MARKUP.match(answer.body):
            return Stranger("a web page, not the sink (captive portal?)", hints.PORTAL)
        if _has_errors(answer.body):
            return Stranger('its answer says "errors": true', hints.ENGINE)
    return None


def _has_errors(body: str) -> bool:
    """Whether it is a JSON object with `"errors": true`, which bulk interfaces hide in a 200."""
    try:
        found = json.loads(body.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return ERRORS.match(body) is not None
    return isinstance(found, dict) and found.get("errors") is True
