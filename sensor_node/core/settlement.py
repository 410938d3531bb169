"""What becomes of a batch, and of the sink's state, after one attempt: rules without a database.

Two questions are kept apart. Is the sink well? Its state is one row, UP or DOWN, and while it is
DOWN only the retrier probes it. Is this batch at fault? Then it backs off by itself and is halved
down to the message at fault. Only that message can become DEAD.
"""

import enum
from dataclasses import dataclass, replace

from sensor_node.core.model import Claim, Outcome, SinkStatus, Verdict
from sensor_node.core.schedule import BackoffPolicy

# Ahead of all that is due: a refused batch is halved to the end before the next one is sent. Else a
# sink that refuses everything would get, and cut to pieces, the whole backlog before a lone message
# shows that it does.
DUE_FIRST = 0.0
# After so many batches at fault with none accepted between them, it is the sink.
MOST_FAULTS = 5


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says about failures."""

    backoff: BackoffPolicy
    at_most_once: bool
    max_attempts: int  # answers to a lone message until it is DEAD; 0: never give up


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What the database remembers of a claimed batch, from its row of table `batch`.

    A batch fails for its own sake if it, and not the sink, is at fault.
    """

    size: int  # messages
    failures: int  # how often it has failed for its own sake since it has this size
    # How often a sink that was UP has answered so, MISCONFIGURED not counted; whatever the size.
    answers: int
    failed_epoch: int | None  # the sink's epoch when it first failed with the sink UP; None: never
    accepted_at_failure: int | None  # the sink's accepted_total at the last failure of any kind
    # The same at the first refusal as a lone message, plus what was in other requests then.
    accepted_at_refusal: int | None
    fate_unknown: bool  # after some attempt nobody knew whether the sink took the messages
    alone: bool = False  # has failed as a lone message, and the sink had received it
    unsent: bool = False  # could not be sent as it was: too large, or a row is missing
    isolated: bool = False  # holds readings of a sensor that is set apart (core/isolation.py)
    due_at: float | None = None  # next_attempt_at when it was claimed, wall seconds; None: fresh
    # The sink's accepted_total when it last failed with any reading of the batch's sensor; None:
    # that sensor is not set apart.
    accepted_at_isolated_failure: int | None = None


class Probe(enum.Enum):
    """What a sink that is DOWN is asked with."""

    LONE = enum.auto()  # one message
    SUSPECTED = enum.auto()  # one message of a sensor whose readings have failed alone, if any
    UNSUSPECTED = enum.auto()  # one message of another sensor
    BATCH = enum.auto()  # as many as any request: some sinks take only one request in a while


@dataclass(frozen=True, slots=True)
class SinkRecord:
    """The row of table `sink`, and counts that the rules need. Times are wall seconds."""

    state: SinkStatus
    epoch: int  # rises by one each time that it goes UP or DOWN
    since: float  # when it last went UP or DOWN
    reason: str  # why it is DOWN, for people; empty while UP
    hint: str  # what to do about that; may be empty
    next_probe_at: float  # while DOWN
    failures: int  # the failure that took it DOWN and the failed probes since; 0 while UP
    accepted_total: int  # messages that it has accepted since the database was made
    # accepted_total when it last refused a lone message; None: it has not since it came UP.
    accepted_at_refusal: int | None
    in_flight: int  # messages that are SENDING now
    suspects: int = 0  # sensors whose readings have failed alone
    isolated: int = 0  # those of them that are set apart
    accepted_at_up: int = -1  # accepted_total just after the probe that brought it UP; -1: none did
    taken_after: float = 0.0  # seconds for which it had been DOWN when it took that probe
    # The last time that it went DOWN it had accepted nothing but that probe, and it said that it is
    # asked too often.
    futile: bool = False
    # Batches that failed for their own sake with an answer that says that it is asked too often,
    # while it accepted nothing.
    faults: int = 0
    accepted_at_fault: int = 0  # accepted_total at the last of these
    # It is futile, but has taken a whole batch as a probe. So what matters to it is how often, and
    # not with what, it is asked.
    throttled: bool = False

    @property
    def up(self) -> bool:
        return self.state is SinkStatus.UP

    def probe_due(self, now: float, longest: float) -> bool:
        """Whether a probe may go now; never while UP. `longest`: seconds.

        A deadline further ahead than `longest` comes of a clock that has jumped: it is due.
        """
        return not self.up and (self.next_probe_at <= now or self.next_probe_at > now + longest)

    @property
    def probe(self) -> Probe:
        """What to ask with while it is DOWN. The kinds take turns, also from outage to outage.

        No kind is known for certain to be right. And a sink with a regular habit, such as to fail
        at each second request, must not meet the same kind each time.
        """
        turn = self.failures + self.epoch // 2
        if self.futile and (turn % 2 or (self.throttled and turn % 4)):
            return Probe.BATCH
        turn //= 2 if self.futile else 1
        if self.suspects <= self.isolated:
            return Probe.LONE
        return Probe.SUSPECTED if turn % 2 else Probe.UNSUSPECTED

    @property
    def has_taken_only_the_probe(self) -> bool:
        """Whether it has accepted nothing since it came UP."""
        return self.accepted_total <= self.accepted_at_up


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is to be stored: the batch's new status, and both records as they are from now on."""

    status: str  # SENT, FAILED, DEAD or IN_DOUBT
    batch: BatchRecord
    sink: SinkRecord
    halve: bool = False  # cut the batch into two; only if FAILED
    next_attempt_at: float | None = None  # wall seconds; only if FAILED


def settlement(
    batch: BatchRecord, sink: SinkRecord, claim: Claim, outcome: Outcome, rules: Rules, now: float
) -> Settlement:
    """Decide what the outcome of the claim's request means. `now`: wall seconds.

    `batch` and `sink` are as they are now, `claim` as the request began.
    """
    epoch = claim.epoch
    if outcome.verdict is Verdict.DELIVERED:
        after = _sink_after_delivery(batch, sink, epoch, now)
        return Settlement("SENT", batch, after)  # SENDING -> SENT
    if outcome.verdict is Verdict.UNSENT:
        return _unsent(batch, sink, claim, rules, now)
    # An outcome tells something about the sink only if its state has not changed meanwhile.
    current = epoch == sink.epoch
    # A failed probe tells nothing about the batch.
    was_up = current and sink.up
    failed_alone = (
        batch.size == 1
        and _has_reached_sink(outcome)
        and not _may_be_too_soon(sink, claim, outcome, now)
    )
    failed = replace(
        batch,
        failed_epoch=epoch if batch.failed_epoch is None and was_up else batch.failed_epoch,
        accepted_at_failure=sink.accepted_total,
        fate_unknown=batch.fate_unknown or not outcome.fate_known,
        alone=batch.alone or failed_alone,
    )
    if outcome.verdict is Verdict.REFUSED:
        decided = _settle_refusal(batch, failed, sink, claim, outcome, rules, now)
    elif was_up and _is_at_fault(batch, sink, claim, outcome):
        decided = _settle_fault(batch, failed, sink, outcome, rules, now)
    else:
        # Failed for the sink's sake: due as soon as the sink is UP, and it keeps its place.
        after = _sink_after_failure(sink, outcome, rules, now) if current else sink
        due_at = min(now, batch.due_at or now)
        decided = Settlement("FAILED", failed, after, next_attempt_at=due_at)
    if rules.at_most_once and not outcome.fate_known:
        return Settlement("IN_DOUBT", decided.batch, decided.sink)  # SENDING -> IN_DOUBT
    return decided


def _unsent(
    batch: BatchRecord, sink: SinkRecord, claim: Claim, rules: Rules, now: float
) -> Settlement:
    """Nothing was asked of the sink: halve the batch, so that its sound messages need not wait.

    A message that cannot be sent alone backs off. A sink that it was to probe waits as long.
    """
    lone = batch.size == 1
    due_at = now + (rules.backoff.delay(claim.attempt) if lone else 0.0)
    after = replace(batch, failures=batch.failures + lone, unsent=True)
    if claim.probe and not sink.up:
        sink = replace(sink, next_probe_at=max(sink.next_probe_at, due_at))
    return Settlement("FAILED", after, sink, halve=not lone, next_attempt_at=due_at)


def _has_reached_sink(outcome: Outcome) -> bool:
    """Whether the sink may have failed because of what was sent: it may have received that."""
    return outcome.verdict is not Verdict.REFUSED and (outcome.answered or not outcome.fate_known)


def _is_too_soon(sink: SinkRecord, outcome: Outcome) -> bool:
    """Whether a throttled sink rejects the request only because it just took the probe."""
    return outcome.overloaded and sink.throttled and sink.has_taken_only_the_probe


def _may_be_too_soon(sink: SinkRecord, claim: Claim, outcome: Outcome, now: float) -> bool:
    """The same for a sink that may be throttled.

    While it is DOWN: if it was left alone for less time than before it took the last probe.
    """
    if not (outcome.overloaded and sink.futile):
        return False
    if sink.up:
        return sink.has_taken_only_the_probe
    return sink.throttled or not claim.probe or now - sink.since < sink.taken_after


def _is_at_fault(batch: BatchRecord, sink: SinkRecord, claim: Claim, outcome: Outcome) -> bool:
    """Whether the batch is at fault, and not the sink, which was UP."""
    if _is_too_soon(sink, outcome):
        return False
    if batch.accepted_at_isolated_failure is not None:
        accepts_others = sink.accepted_total > batch.accepted_at_isolated_failure
        return _has_reached_sink(outcome) and accepts_others
    # It failed before while the sink was UP, and the sink has come UP again since.
    return batch.failed_epoch is not None and batch.failed_epoch < claim.epoch


def _sink_after_delivery(
    batch: BatchRecord, sink: SinkRecord, epoch: int, now: float
) -> SinkRecord:
    """DOWN -> UP, if it still is as it was when the request began."""
    if sink.up or epoch != sink.epoch:
        return sink
    return replace(
        sink,
        state=SinkStatus.UP,
        epoch=sink.epoch + 1,
        since=now,
        reason="",
        hint="",
        next_probe_at=0.0,
        failures=0,
        accepted_at_refusal=None,
        accepted_at_up=sink.accepted_total + batch.size,
        taken_after=now - sink.since,
        throttled=sink.throttled or (sink.futile and batch.size > 1 and not sink.isolated),
    )


def _sink_after_failure(sink: SinkRecord, outcome: Outcome, rules: Rules, now: float) -> SinkRecord:
    """UP -> DOWN, or one more failed probe."""
    failures = sink.failures + 1
    wait = max(rules.backoff.delay(failures), outcome.retry_after or 0.0)
    futile = outcome.overloaded and (sink.has_taken_only_the_probe if sink.up else sink.futile)
    return replace(
        sink,
        state=SinkStatus.DOWN,
        epoch=sink.epoch + 1 if sink.up else sink.epoch,
        since=now if sink.up else sink.since,
        reason=outcome.detail,
        hint=outcome.hint,
        next_probe_at=now + wait,
        failures=failures,
        futile=futile,
        throttled=sink.throttled and futile,
    )


def _settle_fault(
    before: BatchRecord,
    failed: BatchRecord,
    sink: SinkRecord,
    outcome: Outcome,
    rules: Rules,
    now: float,
) -> Settlement:
    """The batch is at fault: it backs off, and is halved or, as a lone message, may be DEAD.

    A misconfigured sink never condemns a message, whatever max_attempts says. Halving waits until
    the sink has accepted something since the batch's last failure, so that a second outage cannot
    cut a backlog to pieces. If the sink answers one batch after the other that it is overloaded,
    and accepts nothing in between, it is the sink after all.
    """
    counts = outcome.answered and outcome.verdict is not Verdict.MISCONFIGURED
    batch = replace(failed, answers=failed.answers + counts, failures=failed.failures + 1)
    if batch.size == 1 and counts and 0 < rules.max_attempts <= batch.answers:
        return Settlement("DEAD", batch, sink)  # SENDING -> DEAD
    wait = max(rules.backoff.delay(batch.failures), outcome.retry_after or 0.0)
    accepted_since = sink.accepted_total > (before.accepted_at_failure or 0)
    halve = batch.size > 1 and accepted_since
    if halve:
        batch = replace(batch, failures=0)
    after = sink
    if outcome.overloaded:
        after = _sink_after_overload(sink, accepted_since, outcome, rules, now)
    return Settlement("FAILED", batch, after, halve, now + wait)


def _sink_after_overload(
    sink: SinkRecord, accepted_since: bool, outcome: Outcome, rules: Rules, now: float
) -> SinkRecord:
    """UP -> DOWN once it answers MOST_FAULTS batches so and accepts nothing in between.

    `accepted_since`: it has accepted something since this batch failed before. Else the batch is
    one that has been counted already.
    """
    faults = sink.faults if sink.accepted_at_fault == sink.accepted_total else 0
    after = replace(sink, faults=faults + accepted_since, accepted_at_fault=sink.accepted_total)
    if after.faults < MOST_FAULTS:
        return after
    return replace(_sink_after_failure(sink, outcome, rules, now), faults=0)


def _settle_refusal(
    before: BatchRecord,
    failed: BatchRecord,
    sink: SinkRecord,
    claim: Claim,
    outcome: Outcome,
    rules: Rules,
    now: float,
) -> Settlement:
    """The sink objects to something in the batch: halve, to find the message that it objects to.

    A message is DEAD only if the sink accepted another between two refusals of it: in a request
    that began after the first refusal, and was over before this request began. Any other message
    may have been accepted before the sink began to refuse everything, or after it ceased to.
    """
    current = claim.epoch == sink.epoch
    if failed.size > 1:
        # A refused probe leaves the sink DOWN.
        after = _sink_after_failure(sink, outcome, rules, now) if current and not sink.up else sink
        failed = replace(failed, failures=0)
        return Settlement("FAILED", failed, after, halve=True, next_attempt_at=DUE_FIRST)
    failed = replace(failed, failures=failed.failures + 1)
    if before.accepted_at_refusal is None:
        in_other_requests = sink.in_flight - failed.size
        failed = replace(failed, accepted_at_refusal=sink.accepted_total + in_other_requests)
    elif claim.accepted_total > before.accepted_at_refusal:
        return Settlement("DEAD", failed, sink)  # SENDING -> DEAD
    after = sink
    if current:
        # Two lone refusals with nothing accepted between them: the sink refuses everything.
        if not sink.up or sink.accepted_at_refusal == sink.accepted_total:
            after = _sink_after_failure(sink, outcome, rules, now)
        after = replace(after, accepted_at_refusal=sink.accepted_total)
    due_at = now + rules.backoff.delay(failed.failures)
    return Settlement("FAILED", failed, after, next_attempt_at=due_at)
