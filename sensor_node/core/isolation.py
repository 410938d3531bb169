"""Which sensors are to be set apart, as the sink fails with their readings: rules, no database.

Most sinks say 400 to a reading that they object to. Some say 500, and some say nothing: then a
batch with one such reading is no different from a sink that is not well. What tells them apart is
that lone readings of one sensor fail, one after the other, while others are taken in between.
"""

from dataclasses import dataclass, replace

from sensor_node.core.model import Outcome
from sensor_node.core.schedule import BackoffPolicy
from sensor_node.core.settlement import SinkRecord

# So many different readings, each alone, and others taken between each two of them.
ENOUGH_FAILURES = 5
# A sensor of which some readings are good must not go in and out. Each time one failure less will
# do, down to these, and four times as many must be taken in a row to let it in, up to these; until
# it has been well for so long.
LEAST_FAILURES = 2
MOST_TAKEN = 64
WELL_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Suspect:
    """A sensor none of whose readings was taken since the first of these failures.

    `accepted_at_failure`: how many messages the sink had accepted at the last of them. An isolated
    sensor's readings wait by themselves. It is tried again with one of them at `next_probe_at`;
    `taken` of them in a row have been accepted. `times`: how often it was isolated. `since`: wall
    seconds of the first failure, of the isolation, or of its end.
    """

    name: str
    failures: int
    accepted_at_failure: int
    isolated: bool
    since: float
    reason: str
    next_probe_at: float
    taken: int = 0
    times: int = 0

    @property
    def is_forgotten(self) -> bool:
        """Nothing is known against it."""
        return not (self.failures or self.times)


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
        before = Suspect(name, 0, -1, False, now, "", 0.0)
    if not before.isolated and sink.accepted_total == before.accepted_at_failure:
        return before  # nobody else's was taken either: that says nothing about this sensor
    failures = before.failures + 1
    isolated = before.isolated or failures >= max(LEAST_FAILURES, ENOUGH_FAILURES - before.times)
    if isolated:
        failures = max(failures, ENOUGH_FAILURES)
    wait = backoff.delay(failures - ENOUGH_FAILURES + 1) if isolated else 0.0
    return replace(
        before,
        failures=failures,
        accepted_at_failure=sink.accepted_total,
        isolated=isolated,
        since=before.since if before.isolated else now,
        reason=outcome.detail,
        next_probe_at=now + max(wait, outcome.retry_after or 0.0),
        taken=0,
        times=before.times + (isolated and not before.isolated),
    )


def suspect_taken(before: Suspect, waiting: bool, now: float) -> Suspect:
    """The sink has taken a reading of the sensor; whether more of it are set apart."""
    if not before.isolated:
        well = now - before.since >= WELL_SECONDS
        return replace(before, failures=0, times=0 if well else before.times)
    taken = before.taken + 1
    if waiting and taken < min(4 ** (before.times - 1), MOST_TAKEN):
        return replace(before, failures=ENOUGH_FAILURES, taken=taken, next_probe_at=now)
    return replace(before, failures=0, isolated=False, since=now, taken=0)
