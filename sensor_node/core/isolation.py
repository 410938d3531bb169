"""Which sensors are to be set apart, as the sink fails with their readings: rules, no database.

Most sinks answer 400 to a reading that they object to. Some answer 500, and some do not answer:
then a batch with one such reading looks the same as a sink that is not well. What tells them apart:
lone readings of one sensor fail, one after the other, while others are accepted in between.
"""

from dataclasses import dataclass, replace

from sensor_node.core.model import Outcome
from sensor_node.core.schedule import BackoffPolicy
from sensor_node.core.settlement import SinkRecord

# Different readings that fail, each alone, with others accepted between each two: then their sensor
# is isolated.
ENOUGH_FAILURES = 5
# A sensor of which some readings are good must not go in and out all the time. So each time that it
# is isolated, one failure less is enough for the next time, down to LEAST_FAILURES, and four times
# as many readings must be accepted in a row to let it in, up to MOST_TAKEN. It starts again from
# the first numbers once it has been well for WELL_SECONDS.
LEAST_FAILURES = 2
MOST_TAKEN = 64
WELL_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Suspect:
    """A sensor whose readings fail alone, from its row of table `suspect`. Times: wall seconds.

    Once it is isolated, its readings wait by themselves, and it is tried with one at a time.
    """

    name: str  # of the sensor's readings
    # Different readings of it that failed alone, with none of it accepted in between; while it is
    # isolated at least ENOUGH_FAILURES.
    failures: int
    accepted_at_failure: int  # the sink's accepted_total at the last of them; -1: none yet
    isolated: bool  # its readings are set apart
    since: float  # the last counted failure; while isolated, when that began; then, when it ended
    reason: str  # the last failure's, for people
    next_probe_at: float  # only while isolated
    taken: int = 0  # readings of it accepted in a row while isolated
    times: int = 0  # how often it was isolated since it was last well for long enough

    @property
    def is_forgotten(self) -> bool:
        """Whether nothing is known against it, so that its row may go."""
        return not (self.failures or self.times)


def suspect_after(
    before: Suspect | None,
    name: str,
    sink: SinkRecord,
    outcome: Outcome,
    backoff: BackoffPolicy,
    now: float,
) -> Suspect:
    """The sensor's record after one of its readings failed alone, for the first time or as a probe.

    `before`: None if there is no record yet. `now`: wall seconds.
    """
    if before is None:
        before = Suspect(name, 0, -1, False, now, "", 0.0)
    if not before.isolated and sink.accepted_total == before.accepted_at_failure:
        return before  # the sink accepted no other reading either: that is not this sensor's fault
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
    """The sensor's record after the sink accepted one of its readings.

    `waiting`: more of its readings are set apart. `now`: wall seconds.
    """
    if not before.isolated:
        well = now - before.since >= WELL_SECONDS
        return replace(before, failures=0, times=0 if well else before.times)
    taken = before.taken + 1
    if waiting and taken < min(4 ** (before.times - 1), MOST_TAKEN):
        return replace(before, failures=ENOUGH_FAILURES, taken=taken, next_probe_at=now)
    return replace(before, failures=0, isolated=False, since=now, taken=0)
