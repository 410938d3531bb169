"""What becomes of a batch, and of the sink's state, after one attempt: rules without a database.

Two questions are kept apart. Is the sink well? Its state is one row, UP or DOWN, and while it is
DOWN only the retrier probes it. Is this batch at fault? Then it backs off by itself, is halved
down to the message at fault, and only that message can become DEAD.
"""

import enum
from dataclasses import dataclass, replace

from sensor_node.core.model import Claim, Outcome, SinkStatus, Verdict
from sensor_node.core.schedule import BackoffPolicy

# Ahead of all that is due: a refused batch is halved to the end before the next one. Otherwise a
# sink that refuses everything gets, and cuts to pieces, the backlog before a lone message.
DUE_FIRST = 0.0
# So many batches at fault, and none taken in between: then it is the sink.
MOST_FAULTS = 5


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says about failures."""

    backoff: BackoffPolicy
    at_most_once: bool
    max_attempts: int  # 0: never give up


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What the database remembers of a claimed batch; the columns of table `batch`.

    `failures`: how often it has failed for its own sake, as large as it is now. `answers`: those
    of its failures that a sink that was UP answered. `failed_epoch`: the sink's epoch at the first
    failure. `alone`: has failed as a single message. `unsent`: could not be sent as it was.
    `isolated`: of a sensor that is set apart.
    `due_at`: its `next_attempt_at` when it was claimed, None for a fresh one.

    `accepted_at_failure`, `accepted_at_refusal`, `accepted_at_isolated_failure`: how many messages
    the sink had accepted at the last failure, at the first refusal of the lone message, and when
    the sink last failed with a reading of that isolated sensor.
    """

    size: int
    failures: int
    answers: int
    failed_epoch: int | None
    accepted_at_failure: int | None
    accepted_at_refusal: int | None
    fate_unknown: bool
    alone: bool = False
    unsent: bool = False
    isolated: bool = False
    due_at: float | None = None
    accepted_at_isolated_failure: int | None = None


class Probe(enum.Enum):
    """What a sink that is DOWN is asked with.

    LONE: one message. SUSPECTED: the same, of a sensor whose readings have failed alone, if there
    is one; UNSUSPECTED: of another. BATCH: as many as any request has, as all that some sinks take
    in a while is one request.
    """

    LONE = enum.auto()
    SUSPECTED = enum.auto()
    UNSUSPECTED = enum.auto()
    BATCH = enum.auto()


@dataclass(frozen=True, slots=True)
class SinkRecord:
    """The row of table `sink`. Times are wall seconds.

    `accepted_total` counts the messages that it has accepted; `accepted_at_refusal` is that count
    when a lone message was last refused. `in_flight` counts those that are SENDING, `suspects`
    sensors whose readings fail alone, `isolated` those of them that are set apart.

    `accepted_at_up` is the count when it was last found UP, after `taken_after` seconds. `futile`:
    it went DOWN without having taken more than that probe, and says that it is asked too often.
    `throttled`: it has also taken a whole batch as a probe, so it is how often, and not what, it is
    asked. `faults`: batches that have failed for their own sake since it had taken
    `accepted_at_fault`.
    """

    state: SinkStatus
    epoch: int
    since: float
    reason: str
    hint: str
    next_probe_at: float
    failures: int
    accepted_total: int
    accepted_at_refusal: int | None
    in_flight: int
    suspects: int = 0
    isolated: int = 0
    accepted_at_up: int = -1
    taken_after: float = 0.0
    futile: bool = False
    faults: int = 0
    accepted_at_fault: int = 0
    throttled: bool = False

    @property
    def up(self) -> bool:
        return self.state is SinkStatus.UP

    def probe_due(self, now: float, longest: float) -> bool:
        """While DOWN. A deadline further ahead than `longest` is a clock that has jumped: due."""
        return not self.up and (self.next_probe_at <= now or self.next_probe_at > now + longest)

    @property
    def probe(self) -> Probe:
        """What to ask with while it is DOWN: by turns, from one outage to the next as well.

        Nothing about it is known for certain, and no regular habit of it may meet one kind alone.
        """
        number = self.failures + self.epoch // 2
        if self.futile and (number % 2 or (self.throttled and number % 4)):
            return Probe.BATCH
        number //= 2 if self.futile else 1
        if self.suspects <= self.isolated:
            return Probe.LONE
        return Probe.SUSPECTED if number % 2 else Probe.UNSUSPECTED

    @property
    def has_taken_only_the_probe(self) -> bool:
        return self.accepted_total <= self.accepted_at_up


@dataclass(frozen=True, slots=True)
class Settlement:
    """The batch as it is to be stored: SENT, FAILED, DEAD or IN_DOUBT; `halve` only if FAILED."""

    status: str
    batch: BatchRecord
    sink: SinkRecord
    halve: bool = False
    next_attempt_at: float | None = None


def settlement(
    batch: BatchRecord, sink: SinkRecord, claim: Claim, outcome: Outcome, rules: Rules, now: float
) -> Settlement:
    """Decide on the outcome of the request that the claim was for."""
    epoch = claim.epoch
    if outcome.verdict is Verdict.DELIVERED:
        return Settlement("SENT", batch, _accepted(batch, sink, epoch, now))  # SENDING -> SENT
    if outcome.verdict is Verdict.UNSENT:
        return _unsent(batch, sink, claim, rules, now)
    # An answer says something about the sink only as it is now.
    current = epoch == sink.epoch
    # That a probe failed says nothing about the batch.
    was_up = current and sink.up
    lone = batch.size == 1 and _has_met(outcome)
    lone = lone and not _may_be_too_soon(sink, claim, outcome, now)
    failed = replace(
        batch,
        failed_epoch=epoch if batch.failed_epoch is None and was_up else batch.failed_epoch,
        accepted_at_failure=sink.accepted_total,
        fate_unknown=batch.fate_unknown or not outcome.fate_known,
        alone=batch.alone or lone,
    )
    if outcome.verdict is Verdict.REFUSED:
        decided = _refused(batch, failed, sink, claim, outcome, rules, now)
    elif was_up and _is_at_fault(batch, sink, claim, outcome):
        decided = _at_fault(batch, failed, sink, outcome, rules, now)
    else:
        # Failed for the sink's sake: due as soon as it is UP, in the place that it had.
        after = _unwell(sink, outcome, rules, now) if current else sink
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


def _has_met(outcome: Outcome) -> bool:
    """Whether the sink may have failed with what was sent, and not before it came."""
    return outcome.verdict is not Verdict.REFUSED and (outcome.answered or not outcome.fate_known)


def _is_too_soon(sink: SinkRecord, outcome: Outcome) -> bool:
    """One that is throttled takes no other request so soon after it came UP, whatever that is."""
    return outcome.overloaded and sink.throttled and sink.has_taken_only_the_probe


def _may_be_too_soon(sink: SinkRecord, claim: Claim, outcome: Outcome, now: float) -> bool:
    """The same for one that may be: it had been left alone for less than when it took a probe."""
    if not (outcome.overloaded and sink.futile):
        return False
    if sink.up:
        return sink.has_taken_only_the_probe
    return sink.throttled or not claim.probe or now - sink.since < sink.taken_after


def _is_at_fault(batch: BatchRecord, sink: SinkRecord, claim: Claim, outcome: Outcome) -> bool:
    """Whether it is the batch, and not the sink, which was UP."""
    if _is_too_soon(sink, outcome):
        return False
    if batch.accepted_at_isolated_failure is not None:
        return _has_met(outcome) and sink.accepted_total > batch.accepted_at_isolated_failure
    # While the sink was UP, and it has come UP again since.
    return batch.failed_epoch is not None and batch.failed_epoch < claim.epoch


def _accepted(batch: BatchRecord, sink: SinkRecord, epoch: int, now: float) -> SinkRecord:
    """DOWN -> UP."""
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


def _unwell(sink: SinkRecord, outcome: Outcome, rules: Rules, now: float) -> SinkRecord:
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


def _at_fault(
    before: BatchRecord,
    failed: BatchRecord,
    sink: SinkRecord,
    outcome: Outcome,
    rules: Rules,
    now: float,
) -> Settlement:
    """The sink came UP since this batch first failed, so this time it is the batch.

    A misconfigured sink never condemns a message, whatever max_attempts says. Halving waits until
    the sink has taken something since the last failure, so that a second outage cannot cut a
    backlog to pieces. And if one after the other is answered that the sink has too much to do, with
    nothing taken in between, that is so.
    """
    counts = outcome.answered and outcome.verdict is not Verdict.MISCONFIGURED
    batch = replace(failed, answers=failed.answers + counts, failures=failed.failures + 1)
    if batch.size == 1 and counts and 0 < rules.max_attempts <= batch.answers:
        return Settlement("DEAD", batch, sink)  # SENDING -> DEAD
    wait = max(rules.backoff.delay(batch.failures), outcome.retry_after or 0.0)
    taken_since = sink.accepted_total > (before.accepted_at_failure or 0)
    halve = batch.size > 1 and taken_since
    batch = replace(batch, failures=0) if halve else batch
    after = _overloaded(sink, taken_since, outcome, rules, now) if outcome.overloaded else sink
    return Settlement("FAILED", batch, after, halve, now + wait)


def _overloaded(
    sink: SinkRecord, taken_since: bool, outcome: Outcome, rules: Rules, now: float
) -> SinkRecord:
    """UP -> DOWN once MOST_FAULTS others are answered so since the sink has taken anything.

    `taken_since`: it had when the batch failed before.
    """
    faults = sink.faults if sink.accepted_at_fault == sink.accepted_total else 0
    after = replace(sink, faults=faults + taken_since, accepted_at_fault=sink.accepted_total)
    if after.faults < MOST_FAULTS:
        return after
    return replace(_unwell(sink, outcome, rules, now), faults=0)


def _refused(
    before: BatchRecord,
    failed: BatchRecord,
    sink: SinkRecord,
    claim: Claim,
    outcome: Outcome,
    rules: Rules,
    now: float,
) -> Settlement:
    """The sink objects to something in the batch: find it, and be sure that it is not the sink.

    A message is DEAD only if the sink took another between two refusals of it: in a request that
    began after the first, and was over before this one began. What else was taken meanwhile may
    have been taken before the sink began to refuse everything, or after it ceased to.
    """
    current = claim.epoch == sink.epoch
    if failed.size > 1:
        # A sink that is DOWN stays so.
        after = _unwell(sink, outcome, rules, now) if current and not sink.up else sink
        halves = replace(failed, failures=0)
        return Settlement("FAILED", halves, after, halve=True, next_attempt_at=DUE_FIRST)
    failed = replace(failed, failures=failed.failures + 1)
    if before.accepted_at_refusal is None:
        in_others_hands = sink.in_flight - failed.size
        failed = replace(failed, accepted_at_refusal=sink.accepted_total + in_others_hands)
    elif claim.accepted_total > before.accepted_at_refusal:
        return Settlement("DEAD", failed, sink)  # SENDING -> DEAD
    after = sink
    if current:
        # Two lone refusals with nothing accepted between: it refuses everything.
        if not sink.up or sink.accepted_at_refusal == sink.accepted_total:
            after = _unwell(sink, outcome, rules, now)
        after = replace(after, accepted_at_refusal=sink.accepted_total)
    due_at = now + rules.backoff.delay(failed.failures)
    return Settlement("FAILED", failed, after, next_attempt_at=due_at)
