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
# A complete answer with one of these says that the sink did not take the batch. So does 503 if it
# comes with a Retry-After.
NOT_TAKEN = frozenset(
    {*range(300, 400), 400, 401, 403, 404, 405, 407, 408, 411, 413, 415, 422, 425, 429, 431}
)
MAY_HAVE_RETRY_AFTER = frozenset({*range(300, 400), 429, 503})
# Some sinks answer so if they are asked too often; others, if they fail with what they are sent.
OVERLOADED = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class SinkResponse:
    """A final answer, free of secrets. Headers are as they came, "" if there is none."""

    status: int
    reason: str  # the phrase after the status
    body: str = ""  # its beginning
    content_type: str = ""
    engine: str = ""  # the database whose headers it has, if it is one of strangers.ENGINES
    location: str = ""
    retry_after: str = ""
    date: str = ""


def interpret(response: SinkResponse, sink: SinkConfig, wall: float) -> Outcome:
    """What came of the batch. `wall`: the present time, in seconds since 1970."""
    status = response.status
    if not 200 <= status <= 599:
        # An interim answer, whose final one may still come, or none that HTTP knows.
        return Outcome(Verdict.TRY_LATER, f"odd status {status}")
    title = f"{status} {one_line(response.reason) or phrases.get(status, '')}".rstrip()
    verdict = verdict_of(status, sink)
    if stranger := strangers.recognize(response, verdict):
        return Outcome(
            Verdict.MISCONFIGURED,
            f"{title}: {stranger.description}",
            stranger.hint,
            answered=True,
            fate_known=status in NOT_TAKEN,
        )
    delivered = verdict is Verdict.DELIVERED
    excerpt = "" if delivered else one_line(response.body)
    wait = None
    if verdict is Verdict.TRY_LATER or status in MAY_HAVE_RETRY_AFTER:
        wait = seconds_until(response.retry_after, response.date, wall)
    return Outcome(
        verdict,
        f"{title}: {excerpt}" if excerpt else title,
        _hint(response, verdict, sink),
        answered=True,
        fate_known=delivered or status in NOT_TAKEN or (status == 503 and wait is not None),
        retry_after=wait,
        overloaded=verdict is Verdict.TRY_LATER and (status in OVERLOADED or wait is not None),
    )


def verdict_of(status: int, sink: SinkConfig) -> Verdict:
    """The verdict of a status from 200 to 599 alone."""
    if status in sink.success_statuses:
        return Verdict.DELIVERED
    if status in sink.refused_statuses:
        return Verdict.REFUSED
    return Verdict.TRY_LATER if status in TRY_LATER else Verdict.MISCONFIGURED


def seconds_until(retry_after: str, date: str, wall: float) -> float | None:
    """How long a Retry-After asks to wait; None if it is neither a number nor a date.

    A date is compared with the answer's own Date, as the two clocks may differ; without one, with
    `wall`, the present time in seconds.
    """
    # float() does not accept all white space that strip() removes, nor should it accept "nan".
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", number := retry_after.strip()):
        seconds = float(number)
    else:
        until, since = _http_date(retry_after), _http_date(date)
        if until is None:
            return None
        seconds = until - (wall if since is None else since)
    return min(max(seconds, 0.0), RETRY_AFTER_CAP_SECONDS)


def _hint(response: SinkResponse, verdict: Verdict, sink: SinkConfig) -> str:
    if verdict is Verdict.MISCONFIGURED:
        return hints.for_answer(response.status, one_line(response.location), sink)
    return hints.REFUSES_ALL if verdict is Verdict.REFUSED else ""


def _http_date(text: str) -> float | None:
    """Seconds since 1970; None if the text is no date."""
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
