"""What a sink's answer means: the answer table of docs/architecture.md."""

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import responses as phrases

from sensor_node.config.loader import SinkConfig
from sensor_node.core.model import Outcome, Verdict
from sensor_node.core.schedule import RETRY_AFTER_CAP_SECONDS
from sensor_node.delivery import hints, strangers
from sensor_node.system.text import one_line

TRY_LATER = frozenset({408, 409, 425, 429, *range(500, 600)})
# A complete answer of these says that the sink did not take the batch; so does 503 if it says when
# to come again.
NOT_TAKEN = frozenset(
    {*range(300, 400), 400, 401, 403, 404, 405, 407, 408, 411, 413, 415, 422, 425, 429, 431}
)
MAY_SAY_WHEN = frozenset({*range(300, 400), 429, 503})
# So is answered who asks too often; so is, by others, who sends what they stumble over.
OVERLOADED = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class SinkResponse:
    """A final status line and what came after it, free of secrets. `body` is its beginning.

    `engine`: which database answers so, if its headers tell.
    """

    status: int
    reason: str
    body: str = ""
    content_type: str = ""
    engine: str = ""
    location: str = ""
    retry_after: str = ""
    date: str = ""


def interpret(answer: SinkResponse, sink: SinkConfig, wall: float) -> Outcome:
    """What came of the batch; `wall` is the present time."""
    status = answer.status
    if not 200 <= status <= 599:
        # An interim answer, whose final one may still come, or none that HTTP knows.
        return Outcome(Verdict.TRY_LATER, f"odd status {status}")
    title = f"{status} {one_line(answer.reason) or phrases.get(status, '')}".rstrip()
    verdict = verdict_of(status, sink)
    if found := strangers.recognize(answer, verdict):
        detail = f"{title}: {found.what}"
        known = status in NOT_TAKEN
        return Outcome(Verdict.MISCONFIGURED, detail, found.hint, answered=True, fate_known=known)
    delivered = verdict is Verdict.DELIVERED
    excerpt = "" if delivered else one_line(answer.body)
    wait = None
    if verdict is Verdict.TRY_LATER or status in MAY_SAY_WHEN:
        wait = seconds_until(answer.retry_after, answer.date, wall)
    return Outcome(
        verdict,
        f"{title}: {excerpt}" if excerpt else title,
        _hint(answer, verdict, sink),
        answered=True,
        fate_known=delivered or status in NOT_TAKEN or (status == 503 and wait is not None),
        retry_after=wait,
        overloaded=verdict is Verdict.TRY_LATER and (status in OVERLOADED or wait is not None),
    )


def verdict_of(status: int, sink: SinkConfig) -> Verdict:
    """The class of a status from 200 to 599."""
    if status in sink.success_statuses:
        return Verdict.DELIVERED
    if status in sink.refused_statuses:
        return Verdict.REFUSED
    return Verdict.TRY_LATER if status in TRY_LATER else Verdict.MISCONFIGURED


def seconds_until(retry_after: str, date: str, wall: float) -> float | None:
    """What a Retry-After asks for, None if it is nonsense. Dates: since the answer's own Date."""
    # What strip() takes for white space, float() may not.
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", number := retry_after.strip()):
        seconds = float(number)
    else:
        until, since = _http_date(retry_after), _http_date(date)
        if until is None:
            return None
        seconds = until - (wall if since is None else since)
    return min(max(seconds, 0.0), RETRY_AFTER_CAP_SECONDS)


def _hint(answer: SinkResponse, verdict: Verdict, sink: SinkConfig) -> str:
    if verdict is Verdict.MISCONFIGURED:
        return hints.of_answer(answer.status, one_line(answer.location), sink)
    return hints.REFUSES_ALL if verdict is Verdict.REFUSED else ""


def _http_date(text: str) -> float | None:
    try:
        found = parsedate_to_datetime(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
