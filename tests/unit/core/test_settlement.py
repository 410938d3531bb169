"""One bad message never stops the rest, and a bad sink never condemns a message (P8)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from storage_fixtures import (
    BACKOFF,
    BUSY,
    DELIVERED,
    ERROR,
    FAILURES,
    REFUSED,
    RULES,
    RULES_ONCE,
    SILENT,
    UNAUTHORIZED,
    UNREACHABLE,
)

from sensor_node.core.model import Claim, Outcome, SinkStatus, Stream, Verdict
from sensor_node.core.settlement import DUE_FIRST, BatchRecord, SinkRecord, settlement

NOW = 1_000_000.0
MANY = BatchRecord(100, 0, 0, None, None, None, False)
LONE = replace(MANY, size=1)
UP = SinkRecord(SinkStatus.UP, 3, 500.0, "", "", 0.0, 0, 1000, None, 1)
DOWN = replace(UP, state=SinkStatus.DOWN, epoch=4, reason="503", hint="wait", next_probe_at=NOW)
DOWN = replace(DOWN, failures=2)
REFUSING = replace(DOWN, accepted_at_refusal=1000)
# Failed in an epoch before the sink last came UP, when it had taken 900 messages.
FAILED_BEFORE = replace(MANY, failures=1, failed_epoch=1, accepted_at_failure=900)
LONE_FAILED_BEFORE = replace(FAILED_BEFORE, size=1)
# A lone message that was first refused when the sink had taken 1000 messages.
REFUSED_BEFORE = replace(LONE, failed_epoch=3, accepted_at_failure=1000, accepted_at_refusal=1000)

every_failure = pytest.mark.parametrize("outcome", FAILURES, ids=lambda outcome: outcome.detail)
every_sink = pytest.mark.parametrize("sink", [UP, DOWN, REFUSING], ids=["up", "down", "refusing"])


def claim(batch, epoch, accepted_total):
    stream = Stream(1, "stream", 1, "node")
    return Claim(1, batch.size, "owner", 1, 0, epoch, accepted_total, False, stream)


def settle(batch, sink, outcome, rules=RULES, epoch=None, accepted_total=None):
    """The request began in the sink's present epoch and with its present total, unless told."""
    began = claim(
        batch,
        sink.epoch if epoch is None else epoch,
        sink.accepted_total if accepted_total is None else accepted_total,
    )
    return settlement(batch, sink, began, outcome, rules, NOW)


def retries(max_attempts):
    return replace(RULES, max_attempts=max_attempts)


def assert_waits(at, failures, outcome=None):
    """Within the backoff's bounds after so many failures, and as long as the sink asked."""
    least = max(BACKOFF.initial_delay / 2, (outcome and outcome.retry_after) or 0.0)
    assert NOW + least <= at <= NOW + max(BACKOFF.ceiling(failures), least)


# Delivered


def test_a_delivered_batch_is_sent_and_says_nothing_new_about_a_sink_that_is_up():
    decided = settle(MANY, UP, DELIVERED)
    assert (decided.status, decided.sink, decided.batch) == ("SENT", UP, MANY)


@pytest.mark.parametrize("sink", [DOWN, REFUSING], ids=["down", "refusing"])
def test_a_delivered_probe_brings_the_sink_up_in_a_new_epoch(sink):
    decided = settle(MANY, sink, DELIVERED)
    assert decided.status == "SENT"
    up = replace(UP, epoch=sink.epoch + 1, since=NOW)
    taken = sink.accepted_total + MANY.size
    assert decided.sink == replace(up, accepted_at_up=taken, taken_after=NOW - sink.since)


def test_a_delivery_that_began_before_the_sink_went_down_does_not_bring_it_up():
    decided = settle(MANY, DOWN, DELIVERED, epoch=DOWN.epoch - 1)
    assert (decided.status, decided.sink) == ("SENT", DOWN)


# The sink's state


@every_failure
def test_a_failure_takes_the_sink_down_in_a_new_epoch_and_leaves_the_batch_due(outcome):
    decided = settle(MANY, UP, outcome)
    assert decided.status == "FAILED"
    assert not decided.halve
    assert decided.next_attempt_at <= NOW
    sink = decided.sink
    assert (sink.state, sink.epoch, sink.since) == (SinkStatus.DOWN, UP.epoch + 1, NOW)
    assert (sink.reason, sink.hint, sink.failures) == (outcome.detail, outcome.hint, 1)
    assert_waits(sink.next_probe_at, 1, outcome)


@every_failure
def test_a_failed_probe_only_puts_the_next_one_off(outcome):
    decided = settle(MANY, DOWN, outcome)
    sink = decided.sink
    assert (sink.state, sink.epoch, sink.since) == (SinkStatus.DOWN, DOWN.epoch, DOWN.since)
    assert (sink.reason, sink.failures) == (outcome.detail, DOWN.failures + 1)
    assert_waits(sink.next_probe_at, DOWN.failures + 1, outcome)
    assert decided.next_attempt_at <= NOW


@every_failure
@every_sink
def test_an_answer_to_a_request_of_an_older_epoch_says_nothing_about_the_sink(sink, outcome):
    for batch in (MANY, LONE, FAILED_BEFORE):
        decided = settle(batch, sink, outcome, epoch=sink.epoch - 1)
        assert (decided.status, decided.sink) == ("FAILED", sink)


def test_a_retry_after_shorter_than_the_backoff_shortens_nothing():
    asked = replace(BUSY, retry_after=0.001)
    assert settle(MANY, UP, asked).sink.next_probe_at >= NOW + BACKOFF.initial_delay / 2


def test_a_retry_after_longer_than_any_backoff_is_honoured():
    asked = replace(BUSY, retry_after=3600.0)
    assert settle(MANY, UP, asked).sink.next_probe_at == NOW + 3600
    assert settle(FAILED_BEFORE, UP, asked).next_attempt_at == NOW + 3600


def test_a_batch_remembers_the_epoch_of_its_first_failure_for_ever():
    first = settle(MANY, UP, BUSY).batch
    assert first.failed_epoch == UP.epoch
    assert settle(first, DOWN, BUSY).batch.failed_epoch == UP.epoch


@every_failure
def test_a_batch_that_has_only_failed_as_a_probe_may_take_the_sink_down(outcome):
    """Else an outage that comes again is paid for by every batch that the first has left over."""
    probed = settle(MANY, DOWN, outcome).batch
    assert probed.failed_epoch is None
    assert not settle(probed, replace(UP, epoch=5), outcome).sink.up


@every_failure
def test_a_batch_that_fails_for_the_sinks_sake_keeps_its_place_among_those_due(outcome):
    waiting = replace(MANY, due_at=NOW - 500)
    assert settle(waiting, DOWN, outcome).next_attempt_at == NOW - 500
    assert settle(MANY, DOWN, outcome).next_attempt_at == NOW


@every_failure
def test_a_place_that_a_clock_has_put_into_the_future_is_given_up(outcome):
    assert settle(replace(MANY, due_at=NOW + 1e8), DOWN, outcome).next_attempt_at == NOW


# A batch at fault


@every_failure
@pytest.mark.parametrize("size", [1, 100])
def test_a_batch_that_failed_before_the_sink_came_up_never_takes_it_down_again(size, outcome):
    batch = replace(FAILED_BEFORE, size=size, failures=4)
    decided = settle(batch, UP, outcome)
    assert (decided.status, decided.sink.state) == ("FAILED", UP.state)
    assert_waits(decided.next_attempt_at, 5, outcome)


@every_failure
def test_a_batch_at_fault_is_halved_whatever_the_class(outcome):
    assert settle(FAILED_BEFORE, UP, outcome).halve


@every_failure
def test_a_batch_at_fault_is_not_halved_until_the_sink_has_taken_something_since(outcome):
    just_failed = replace(FAILED_BEFORE, accepted_at_failure=UP.accepted_total)
    assert not settle(just_failed, UP, outcome).halve
    assert settle(just_failed, replace(UP, accepted_total=UP.accepted_total + 1), outcome).halve


@every_failure
def test_each_failure_asks_for_a_new_success_before_the_next_halving(outcome):
    assert settle(FAILED_BEFORE, UP, outcome).batch.accepted_at_failure == UP.accepted_total
    assert settle(MANY, UP, outcome).batch.accepted_at_failure == UP.accepted_total


def test_a_batch_that_failed_in_this_very_epoch_may_still_take_the_sink_down():
    refused_once = replace(MANY, failed_epoch=UP.epoch, accepted_at_failure=900)
    assert not settle(refused_once, UP, BUSY).sink.up


@every_failure
def test_while_the_sink_is_down_a_failed_probe_is_never_the_batch_s_fault(outcome):
    decided = settle(FAILED_BEFORE, DOWN, outcome, retries(1))
    assert (decided.status, decided.halve, decided.batch.answers) == ("FAILED", False, 0)


@every_failure
def test_halves_begin_to_wait_anew(outcome):
    """Or what was one of a hundred would wait as long as if it had failed seven times alone."""
    worn = replace(FAILED_BEFORE, failures=6)
    halved = settle(worn, UP, outcome)
    assert (halved.halve, halved.batch.failures) == (True, 0)
    kept = settle(replace(worn, accepted_at_failure=UP.accepted_total), UP, outcome)
    assert (kept.halve, kept.batch.failures) == (False, 7)
    assert settle(replace(MANY, failures=6), UP, REFUSED).batch.failures == 0


# Isolated


APART = replace(LONE, isolated=True, accepted_at_isolated_failure=UP.accepted_total - 1)


@pytest.mark.parametrize("outcome", [BUSY, ERROR, SILENT, UNAUTHORIZED], ids=lambda one: one.detail)
def test_what_is_set_apart_does_not_take_the_sink_down_while_that_takes_others(outcome):
    decided = settle(APART, UP, outcome)
    assert (decided.status, decided.sink.state, decided.batch.failures) == ("FAILED", UP.state, 1)


@every_failure
def test_it_does_if_nothing_was_taken_since_it_failed_last_or_nobody_has_met_it(outcome):
    apart = replace(APART, accepted_at_isolated_failure=UP.accepted_total)
    for batch, answer in [(apart, outcome), (APART, UNREACHABLE)]:
        decided = settle(batch, UP, answer)
        assert decided.sink.state is SinkStatus.DOWN
        assert (decided.sink.reason, decided.batch.failures) == (answer.detail, 0)


def test_an_outage_never_condemns_what_is_set_apart():
    apart = replace(APART, accepted_at_isolated_failure=UP.accepted_total, answers=99)
    assert settle(apart, UP, ERROR, retries(5)).status == "FAILED"


def test_what_is_set_apart_is_a_probe_like_others_while_the_sink_is_down():
    apart = replace(LONE, isolated=True)
    assert settle(apart, DOWN, BUSY).sink.failures == DOWN.failures + 1
    assert settle(apart, DOWN, DELIVERED).sink.up


@pytest.mark.parametrize(
    ("outcome", "alone"),
    [
        *[(ERROR, True), (SILENT, True), (UNAUTHORIZED, True)],
        # Not met, and has an answer of its own.
        *[(BUSY, True), (UNREACHABLE, False), (REFUSED, False)],
    ],
    ids=lambda value: getattr(value, "detail", value),
)
def test_only_what_the_sink_has_met_alone_is_marked_so(outcome, alone):
    for sink in (UP, DOWN):
        assert settle(LONE, sink, outcome).batch.alone is alone
        assert not settle(MANY, sink, outcome).batch.alone
    assert settle(replace(LONE, alone=True), UP, UNREACHABLE).batch.alone


# max_attempts


@pytest.mark.parametrize("outcome", [BUSY, ERROR], ids=lambda outcome: outcome.detail)
def test_max_attempts_counts_the_answers_of_a_working_sink_and_then_gives_up(outcome):
    first = settle(LONE_FAILED_BEFORE, UP, outcome, retries(2))
    assert (first.status, first.batch.answers) == ("FAILED", 1)
    second = settle(first.batch, UP, outcome, retries(2))
    assert (second.status, second.batch.answers, second.sink) == ("DEAD", 2, UP)


@pytest.mark.parametrize("outcome", [UNREACHABLE, SILENT, UNAUTHORIZED], ids=lambda o: o.detail)
def test_max_attempts_never_counts_silence_nor_a_misconfigured_sink(outcome):
    worn = replace(LONE_FAILED_BEFORE, answers=5)
    decided = settle(worn, UP, outcome, retries(1))
    assert (decided.status, decided.batch.answers) == ("FAILED", 5)


def test_max_attempts_never_counts_what_a_sink_answers_while_it_is_down():
    for batch in (LONE, LONE_FAILED_BEFORE):
        assert settle(batch, DOWN, BUSY, retries(1)).batch.answers == 0
    assert settle(LONE, UP, BUSY, retries(1)).batch.answers == 0
    assert settle(LONE_FAILED_BEFORE, UP, BUSY, retries(1), epoch=2).batch.answers == 0


def test_max_attempts_condemns_no_batch_of_many_for_one_of_them():
    worn = replace(FAILED_BEFORE, answers=9)
    decided = settle(worn, UP, BUSY, retries(1))
    assert (decided.status, decided.halve, decided.batch.answers) == ("FAILED", True, 10)


def test_without_max_attempts_a_message_is_tried_for_ever():
    worn = replace(LONE_FAILED_BEFORE, answers=10**6, failures=10**6)
    assert settle(worn, UP, BUSY, retries(0)).status == "FAILED"


# Refused


def test_a_refused_batch_is_halved_at_once_and_says_nothing_about_a_sink_that_is_up():
    decided = settle(MANY, UP, REFUSED)
    assert (decided.status, decided.halve, decided.sink) == ("FAILED", True, UP)
    assert decided.next_attempt_at == DUE_FIRST
    assert decided.batch.accepted_at_refusal is None


@pytest.mark.parametrize("sink", [DOWN, REFUSING], ids=["down", "refusing"])
def test_a_refused_probe_of_many_keeps_the_sink_down(sink):
    decided = settle(MANY, sink, REFUSED)
    assert (decided.status, decided.halve) == ("FAILED", True)
    after = decided.sink
    assert (after.up, after.epoch) == (False, sink.epoch)
    assert_waits(after.next_probe_at, sink.failures + 1)


@every_sink
def test_a_refusal_of_an_older_epoch_says_nothing_about_the_sink(sink):
    for batch in (MANY, LONE, REFUSED_BEFORE):
        assert settle(batch, sink, REFUSED, epoch=sink.epoch - 1).sink == sink


def test_the_first_refusal_of_a_lone_message_waits_for_what_the_sink_does_with_others():
    decided = settle(replace(LONE, failures=2), UP, REFUSED)
    assert (decided.status, decided.halve) == ("FAILED", False)
    assert decided.batch.accepted_at_refusal == UP.accepted_total
    assert decided.sink == replace(UP, accepted_at_refusal=UP.accepted_total)
    assert_waits(decided.next_attempt_at, 3)


def test_a_message_is_dead_once_another_was_accepted_since_its_first_refusal():
    accepted_one = replace(UP, accepted_total=1001)
    assert settle(REFUSED_BEFORE, accepted_one, REFUSED).status == "DEAD"


def test_what_was_accepted_only_after_the_request_began_condemns_nothing():
    """The sink may have refused everything, and ceased to before the others were accepted."""
    accepted_many = replace(UP, accepted_total=1100)
    assert settle(REFUSED_BEFORE, accepted_many, REFUSED, accepted_total=1000).status == "FAILED"
    assert settle(REFUSED_BEFORE, accepted_many, REFUSED, accepted_total=1001).status == "DEAD"


def test_what_was_on_its_way_at_the_first_refusal_condemns_nothing_when_it_is_accepted():
    """The sink may have accepted it before it began to refuse everything."""
    refused = settle(LONE, replace(UP, in_flight=51), REFUSED).batch
    arrived = replace(UP, accepted_total=1050)
    assert settle(refused, arrived, REFUSED).status == "FAILED"
    assert settle(refused, replace(arrived, accepted_total=1051), REFUSED).status == "DEAD"


def test_a_dead_message_says_nothing_about_the_sink():
    for sink in (UP, DOWN, REFUSING):
        sink = replace(sink, accepted_total=1001)
        decided = settle(REFUSED_BEFORE, sink, REFUSED)
        assert (decided.status, decided.sink) == ("DEAD", sink)


def test_a_message_stays_alive_while_the_sink_accepts_nothing_else():
    batch, sink = LONE, UP
    for _ in range(50):
        decided = settle(batch, sink, REFUSED, retries(3))
        assert decided.status == "FAILED"
        batch, sink = decided.batch, decided.sink
    assert batch.accepted_at_refusal == UP.accepted_total  # of the first refusal, not of the last
    assert not sink.up
    assert batch.failures == 50


def test_two_lone_refusals_with_nothing_accepted_between_take_the_sink_down():
    after_one = settle(LONE, UP, REFUSED).sink
    decided = settle(LONE, after_one, REFUSED)
    assert decided.status == "FAILED"
    sink = decided.sink
    assert (sink.up, sink.epoch) == (False, UP.epoch + 1)
    assert sink.reason == REFUSED.detail


def test_two_lone_refusals_with_something_accepted_between_do_not():
    after_one = replace(settle(LONE, UP, REFUSED).sink, accepted_total=1001)
    assert settle(LONE, after_one, REFUSED).sink.up


def test_a_lone_probe_that_is_refused_keeps_a_sink_down_that_was_down_for_another_reason():
    sink = settle(LONE, DOWN, REFUSED).sink
    assert (sink.up, sink.failures) == (False, DOWN.failures + 1)


def test_a_refusal_of_an_older_epoch_is_remembered_by_the_message():
    assert settle(LONE, DOWN, REFUSED, epoch=1).batch.accepted_at_refusal == DOWN.accepted_total


def test_max_attempts_has_no_say_about_refusals():
    assert settle(replace(LONE_FAILED_BEFORE, answers=99), UP, REFUSED, retries(1)).status == (
        "FAILED"
    )


# What cannot be sent

UNSENT = Outcome(Verdict.UNSENT, "too large", fate_known=True)


@every_sink
def test_a_batch_that_cannot_be_sent_is_halved_due_at_once_and_the_sink_stays_as_it_was(sink):
    decided = settle(MANY, sink, UNSENT)
    assert (decided.status, decided.halve, decided.next_attempt_at) == ("FAILED", True, NOW)
    assert (decided.batch, decided.sink) == (replace(MANY, unsent=True), sink)


def test_a_lone_message_that_cannot_be_sent_backs_off_and_says_nothing_about_its_sensor():
    decided = settle(LONE, UP, UNSENT)
    assert not decided.halve
    assert decided.next_attempt_at >= NOW + BACKOFF.initial_delay / 2
    assert decided.batch == replace(LONE, failures=LONE.failures + 1, unsent=True)


def test_a_sink_that_it_was_to_probe_waits_as_long():
    probe = replace(claim(LONE, DOWN.epoch, DOWN.accepted_total), probe=True)
    decided = settlement(LONE, DOWN, probe, UNSENT, RULES, NOW)
    assert decided.sink == replace(DOWN, next_probe_at=decided.next_attempt_at)


# At most once


@pytest.mark.parametrize("verdict", [Verdict.REFUSED, Verdict.TRY_LATER, Verdict.MISCONFIGURED])
@every_sink
def test_at_most_once_parks_whatever_is_not_certainly_undelivered(sink, verdict):
    outcome = Outcome(verdict, "who knows", answered=True, fate_known=False)
    for batch in (MANY, LONE, FAILED_BEFORE, REFUSED_BEFORE):
        once = settle(batch, sink, outcome, RULES_ONCE)
        assert (once.status, once.halve, once.next_attempt_at) == ("IN_DOUBT", False, None)
        assert once.batch.fate_unknown
        # The sink is judged all the same.
        again = settle(batch, sink, outcome, RULES)
        assert (once.sink.state, once.sink.epoch) == (again.sink.state, again.sink.epoch)


def test_at_most_once_does_not_even_give_up_on_what_it_does_not_know():
    worn = replace(LONE_FAILED_BEFORE, answers=9)
    rules = replace(RULES_ONCE, max_attempts=1)
    assert settle(worn, UP, replace(ERROR, fate_known=False), rules).status == "IN_DOUBT"
    assert settle(worn, UP, replace(ERROR, fate_known=True), rules).status == "DEAD"


@pytest.mark.parametrize("outcome", [BUSY, UNREACHABLE, UNAUTHORIZED, REFUSED])
def test_at_most_once_tries_again_what_was_certainly_not_delivered(outcome):
    assert settle(MANY, UP, outcome, RULES_ONCE).status == "FAILED"
    assert settle(MANY, UP, outcome, RULES_ONCE).batch.fate_unknown is False


@pytest.mark.parametrize("rules", [RULES, RULES_ONCE], ids=["at-least-once", "at-most-once"])
def test_a_fate_once_unknown_stays_marked_whatever_is_known_later(rules):
    unknown = settle(MANY, UP, SILENT, RULES).batch
    assert unknown.fate_unknown
    for outcome in (*FAILURES, REFUSED):
        assert settle(unknown, UP, outcome, rules).batch.fate_unknown


# When a probe is due


def test_a_sink_that_is_up_is_never_probed():
    assert not UP.probe_due(NOW, 3600.0)


def test_a_probe_is_due_at_its_time_and_not_before():
    waiting = replace(DOWN, next_probe_at=NOW + 10)
    assert not waiting.probe_due(NOW, 3600.0)
    assert waiting.probe_due(NOW + 10, 3600.0)


def test_a_probe_further_ahead_than_any_delay_is_a_clock_that_has_jumped_and_due():
    assert not replace(DOWN, next_probe_at=NOW + 3600).probe_due(NOW, 3600.0)
    assert replace(DOWN, next_probe_at=NOW + 3601).probe_due(NOW, 3600.0)


# Whatever happens

numbers = st.integers(0, 5)
maybe = st.none() | numbers
batches = st.builds(
    BatchRecord, st.integers(1, 4), st.integers(0, 200), numbers, maybe, maybe, maybe,
    st.booleans(), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
sinks = st.builds(
    SinkRecord, st.sampled_from(SinkStatus), numbers, numbers.map(float), st.just("why"),
    st.just(""), st.just(0.0), numbers, numbers, maybe,
    st.integers(4, 9),
)  # fmt: skip
outcomes = st.builds(
    Outcome, st.sampled_from(Verdict), st.just("because"), st.just("hint"), st.booleans(),
    st.booleans(), st.none() | st.floats(0, 3600),
)  # fmt: skip
rules = st.builds(replace, st.sampled_from([RULES, RULES_ONCE]), max_attempts=numbers)


@given(batches, sinks, numbers, outcomes, rules)
def test_no_settlement_ever_breaks_the_rules_that_hold_for_all(batch, sink, epoch, outcome, rules):
    if outcome.verdict is Verdict.UNSENT:
        outcome = replace(outcome, fate_known=True)
    decided = settle(batch, sink, outcome, rules, epoch)
    delivered = outcome.verdict is Verdict.DELIVERED
    assert (decided.status == "SENT") == delivered
    assert decided.batch.size == batch.size
    assert decided.batch.failures in (0, batch.failures, batch.failures + 1)
    assert decided.batch.alone >= batch.alone
    assert decided.batch.fate_unknown >= batch.fate_unknown
    assert not decided.halve or (decided.status == "FAILED" and batch.size > 1)
    assert (decided.next_attempt_at is None) == (decided.status != "FAILED")
    if decided.status == "DEAD":
        assert batch.size == 1
        assert outcome.verdict in (Verdict.REFUSED, Verdict.TRY_LATER)
    if rules.at_most_once and not outcome.fate_known and not delivered:
        assert decided.status == "IN_DOUBT"
    after = decided.sink
    assert after.accepted_total == sink.accepted_total  # the tally counts them
    assert after.epoch == sink.epoch + (after.state is not sink.state)
    if epoch != sink.epoch:
        assert after == sink
    if not after.up and after != sink:
        least = max(BACKOFF.initial_delay / 2, outcome.retry_after or 0.0)
        assert after.next_probe_at >= NOW + least or after.failures == sink.failures
