"""Which sensors are to be set apart, as the sink fails with their readings: rules, no database.

Most sinks say 400 to a reading that they object to. Some say 500, and some say nothing: then a
batch with one such reading is no different from a sink that is not well. What tells them apart is
that lone readings of one sensor fail, one after the other, while others are taken in between.
"""

from dataclasses import dataclass, replace

from sensor_node.model import Outcome
from sensor_node.schedule import BackoffPolicy
from sensor_node.settlement import SinkRecord

# So many different readings, each alone, and others taken between each two of them.
ENOUGH_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Suspect:
    """A sensor none of whose readings was taken since the first of these failures.

    `successes`: how many messages the sink had taken at the last of them. Isolated, its readings
    wait by themselves, and it is tried again with one of them at `next_probe_at`.
    """

    name: str
    failures: int
    successes: int
    isolated: bool
    since: float
    reason: str
    next_probe_at: float


def suspect_after(
    before: Suspect | None,
    name: str,
    sink: SinkRecord,
    outcome: Outcome,
    backoff: BackoffPolicy,
    now: float,
) -> Suspect:
    """A reading of the sensor has failed alone, for the first time or as a probe of the sensor."""
    if before is None:
        return Suspect(name, 1, sink.successes, False, now, outcome.detail, 0.0)
    if not before.isolated and sink.successes == before.successes:
        return before  # nobody else's was taken either: that says nothing about this sensor
    failures = before.failures + 1
    isolated = failures >= ENOUGH_FAILURES
    wait = backoff.delay(failures - ENOUGH_FAILURES + 1) if isolated else 0.0
    return replace(
        before,
        failures=failures,
        successes=sink.successes,
        isolated=isolated,
        since=before.since if before.isolated else now,
        reason=outcome.detail,
        next_probe_at=now + max(wait, outcome.retry_after or 0.0),
    )
