"""What becomes of a batch, and of the sink's state, after one attempt: rules without a database.

Two questions are kept apart. Is the sink well? Its state is one row, UP or DOWN, and while it is
DOWN only the retrier probes it. Is this batch at fault? Then it backs off by itself, is halved
down to the message at fault, and only that message can become DEAD.
"""

from dataclasses import dataclass, replace

from sensor_node.model import Claim, Outcome, SinkStatus, Verdict
from sensor_node.schedule import BackoffPolicy

# Ahead of all that is due: a refused batch is halved to the end before the next one. Otherwise a
# sink that refuses everything gets, and cuts to pieces, the backlog before a lone message.
DUE_FIRST = 0.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says about failures."""

    backoff: BackoffPolicy
    at_most_once: bool
    max_attempts: int  # 0: never give up


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What the database remembers of a claimed batch; the columns of table `batch`.

    `failures`: how often it has failed for its own sake, as large as it is now. `alone`: has failed
    as a single message. `isolated`: of a sensor that is set apart. `due_at`: its `next_attempt_at`
    when it was claimed, None for a fresh one.
    """

    size: int
    failures: int
    answers: int
    failed_epoch: int | None
    failed_successes: int | None
    refused_successes: int | None
    fate_unknown: bool
    alone: bool = False
    isolated: bool = False
    due_at: float | None = None


@dataclass(frozen=True, slots=True)
class SinkRecord:
    """The row of table `sink`. Times are wall seconds.

    `successes` counts the messages that it has taken; `refused_successes` is that count when a
    lone message was last refused. `in_flight` counts those that are SENDING, `suspects` sensors
    whose readings fail alone, `isolated` those of them that are set apart.
    """

    state: SinkStatus
    epoch: int
    since: float
    reason: str
    hint: str
    next_probe_at: float
    failures: int
    successes: int
    refused_successes: int | None
    in_flight: int
    suspects: int = 0
    isolated: int = 0

    @property
    def up(self) -> bool:
        return self.state is SinkStatus.UP

    def probe_due(self, now: float, longest: float) -> bool:
        """While DOWN. A deadline further ahead than `longest` is a clock that has jumped: due."""
        return not self.up and (self.next_probe_at <= now or self.next_probe_at > now + longest)


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
        return Settlement("SENT", batch, _accepted(sink, epoch, now))  # SENDING -> SENT
    # An answer says something about the sink only as it is now.
    current = epoch == sink.epoch
    # That a probe failed says nothing about the batch.
    was_up = current and sink.up
    failed = replace(
        batch,
        failed_epoch=epoch if batch.failed_epoch is None and was_up else batch.failed_epoch,
        failed_successes=sink.successes,
        fate_unknown=batch.fate_unknown or not outcome.fate_known,
    )
    if batch.size == 1 and _may_be_of_it(outcome):
        failed = replace(failed, alone=True)
    if outcome.verdict is Verdict.REFUSED:
        decided = _refused(batch, failed, sink, claim, outcome, rules, now)
    elif was_up and (batch.isolated or _has_failed_before(batch, epoch)):
        decided = _at_fault(batch, failed, sink, outcome, rules, now)
    else:
        # Failed for the sink's sake: due as soon as it is UP, in the place that it had.
        after = _unwell(sink, outcome, rules, now) if current else sink
        due_at = min(now, batch.due_at or now)
        decided = Settlement("FAILED", failed, after, next_attempt_at=due_at)
    if rules.at_most_once and not outcome.fate_known:
        return Settlement("IN_DOUBT", decided.batch, decided.sink)  # SENDING -> IN_DOUBT
    return decided


def _may_be_of_it(outcome: Outcome) -> bool:
    """Whether a lone message may be why: the sink has met it, and does not ask for a wait."""
    met = outcome.answered or not outcome.fate_known
    return met and outcome.verdict is not Verdict.REFUSED and outcome.retry_after is None


def _has_failed_before(batch: BatchRecord, epoch: int) -> bool:
    """While the sink was UP, and it has come UP again since."""
    return batch.failed_epoch is not None and batch.failed_epoch < epoch


def _accepted(sink: SinkRecord, epoch: int, now: float) -> SinkRecord:
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
        refused_successes=None,
    )


def _unwell(sink: SinkRecord, outcome: Outcome, rules: Rules, now: float) -> SinkRecord:
    """UP -> DOWN, or one more failed probe."""
    failures = sink.failures + 1
    wait = max(rules.backoff.delay(failures), outcome.retry_after or 0.0)
    return replace(
        sink,
        state=SinkStatus.DOWN,
        epoch=sink.epoch + 1 if sink.up else sink.epoch,
        since=now if sink.up else sink.since,
        reason=outcome.detail,
        hint=outcome.hint,
        next_probe_at=now + wait,
        failures=failures,
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
    backlog to pieces.
    """
    counts = outcome.answered and outcome.verdict is not Verdict.MISCONFIGURED
    batch = replace(failed, answers=failed.answers + counts)
    if batch.size == 1 and counts and 0 < rules.max_attempts <= batch.answers:
        return Settlement("DEAD", batch, sink)  # SENDING -> DEAD
    failures = batch.failures + 1
    wait = max(rules.backoff.delay(failures), outcome.retry_after or 0.0)
    halve = batch.size > 1 and sink.successes > (before.failed_successes or 0)
    batch = replace(batch, failures=0 if halve else failures)
    return Settlement("FAILED", batch, sink, halve, now + wait)


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
    if before.refused_successes is None:
        in_others_hands = sink.in_flight - failed.size
        failed = replace(failed, refused_successes=sink.successes + in_others_hands)
    elif claim.successes > before.refused_successes:
        return Settlement("DEAD", failed, sink)  # SENDING -> DEAD
    after = sink
    if current:
        # Two lone refusals with nothing accepted between: it refuses everything.
        if not sink.up or sink.refused_successes == sink.successes:
            after = _unwell(sink, outcome, rules, now)
        after = replace(after, refused_successes=sink.successes)
    due_at = now + rules.backoff.delay(failed.failures)
    return Settlement("FAILED", failed, after, next_attempt_at=due_at)
