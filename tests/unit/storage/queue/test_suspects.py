"""Sensors whose readings fail alone are set apart, tried by themselves, and let in again."""

from dataclasses import replace

import pytest
from storage_fixtures import (
    BACKOFF,
    DELIVERED,
    ERROR,
    POLICY,
    POLICY_ONCE,
    REFUSED,
    ROOM,
    RULES,
    RULES_ONCE,
    SILENT,
    UNREACHABLE,
    UNSENT,
    audit,
    events,
    execute,
    rows,
    set_sink,
)

from sensor_node.core.clock import Moment
from sensor_node.core.isolation import ENOUGH_FAILURES, WELL_SECONDS
from sensor_node.core.model import Reading
from sensor_node.storage.queue import claiming, suspects

NOW = 1_000_000.0
LATER = NOW + 10_000.0


def capture(repository, names):
    """One reading of the sensor that each letter names: "bad" is b."""
    readings = [Reading(letter, 1.0, i) for i, letter in enumerate(names)]
    assert repository.capture(readings, [], NOW, ROOM) == len(names)


def fresh(repository, limit=100, policy=POLICY):
    return repository.claim_fresh("sender", policy, NOW, limit)


def span(claim):
    return claim and (claim.first_id, claim.last_id)


def send(repository, outcome, limit=1, rules=RULES):
    claim = fresh(repository, limit)
    assert repository.settle(claim, outcome, rules, NOW)
    set_sink(repository, state="UP")
    return claim


def fail_alone(repository, times, outcome=ERROR, rules=RULES):
    """That many readings of b, each alone, and one of a is taken between each two."""
    capture(repository, "ba" * times)
    for _ in range(times):
        send(repository, outcome, rules=rules)
        send(repository, DELIVERED)


def isolate(repository):
    fail_alone(repository, ENOUGH_FAILURES)
    assert isolated(repository) == ["b"]
    assert repository.claim_left_over("sender", POLICY, NOW, 100) is None
    assert len(apart(repository)) == ENOUGH_FAILURES, "those that failed before are, too"


def isolated(repository):
    return [name for (name,) in rows(repository, "SELECT name FROM suspect WHERE isolated")]


def apart(repository):
    return rows(repository, "SELECT first_id, last_id FROM batch WHERE isolated = 'b' ORDER BY 1")


# Who is set apart


@pytest.mark.parametrize("outcome", [ERROR, SILENT], ids=lambda outcome: outcome.detail)
def test_a_sensor_whose_readings_fail_alone_is_set_apart_and_that_is_an_event(repository, outcome):
    fail_alone(repository, ENOUGH_FAILURES - 1, outcome)
    assert isolated(repository) == []
    fail_alone(repository, 1, outcome)
    assert isolated(repository) == ["b"]
    assert events(repository, "sensor isolated") == [f"b: {outcome.detail}"]


def test_one_that_is_taken_is_reason_enough_to_begin_anew(repository):
    fail_alone(repository, ENOUGH_FAILURES - 1)
    capture(repository, "b")
    send(repository, DELIVERED)
    fail_alone(repository, ENOUGH_FAILURES - 1)
    assert isolated(repository) == []


def test_one_that_is_taken_among_others_is_too(repository):
    fail_alone(repository, ENOUGH_FAILURES - 1)
    capture(repository, "aba")
    send(repository, DELIVERED, limit=3)
    assert rows(repository, "SELECT * FROM suspect") == []


@pytest.mark.parametrize("outcome", [UNREACHABLE, REFUSED], ids=lambda outcome: outcome.detail)
def test_what_the_sink_has_not_met_or_refuses_says_nothing(repository, outcome):
    fail_alone(repository, 2 * ENOUGH_FAILURES, outcome)
    assert rows(repository, "SELECT * FROM suspect") == []


def test_one_reading_that_fails_for_ever_does_not_set_its_sensor_apart(repository):
    capture(repository, "b" + "a" * 50)
    for _ in range(50):
        claim = repository.claim_due("retrier", POLICY, LATER, 1) or fresh(repository, 1)
        outcome = ERROR if claim.first_id == 1 else DELIVERED
        assert repository.settle(claim, outcome, RULES, NOW)
        set_sink(repository, state="UP", epoch=99)
    assert rows(repository, "SELECT failures FROM suspect") == [(1,)]


def test_a_sink_that_takes_nothing_sets_nobody_apart(repository):
    capture(repository, "b" * 100)
    for _ in range(100):
        send(repository, ERROR)
    assert rows(repository, "SELECT failures, isolated FROM suspect") == [(1, 0)]


def test_at_most_once_each_of_them_is_in_doubt_and_counts(repository):
    fail_alone(repository, ENOUGH_FAILURES, SILENT, RULES_ONCE)
    assert isolated(repository) == ["b"]
    assert repository.counts().in_doubt == ENOUGH_FAILURES


# What is set apart


def test_fresh_readings_of_others_are_claimed_around_them(repository):
    isolate(repository)
    top = repository.counts().captured
    capture(repository, "aabbbaba")
    claims = [span(fresh(repository)) for _ in range(4)]
    assert claims == [(top + 1, top + 2), (top + 6, top + 6), (top + 8, top + 8), None]
    assert apart(repository)[-2:] == [(top + 3, top + 5), (top + 7, top + 7)]
    assert audit(repository) == []


def test_where_there_are_no_others_nothing_is_claimed(repository):
    isolate(repository)
    capture(repository, "b" * 20)
    assert fresh(repository) is None
    assert repository.counts().pending == 0
    assert repository.claim_left_over("sender", POLICY, LATER, 100) is None


def test_only_so_many_are_set_apart_in_one_transaction(repository, monkeypatch):
    isolate(repository)
    monkeypatch.setattr(claiming, "MOST_MESSAGES", 20)
    capture(repository, "b" * 70)
    assert fresh(repository, limit=10) is None
    assert repository.counts().pending == 50
    monkeypatch.setattr(claiming, "MOST_ISOLATED_RANGES", 2)
    capture(repository, "ab" * 10)
    assert fresh(repository, limit=10) is None


def test_what_is_set_apart_at_once_stays_together(repository):
    """Whatever the limit: as a probe of a sink that is DOWN, one message is claimed."""
    isolate(repository)
    capture(repository, "b" * 50 + "aa")
    set_sink(repository, state="DOWN", next_probe_at=NOW)
    assert repository.claim_probe("retrier", POLICY, NOW, 100).size == 1
    first, last = apart(repository)[-1]
    assert last - first + 1 == 50


def test_batches_that_failed_before_are_cut_around_them(repository):
    capture(repository, "aabba")
    claim = fresh(repository)
    assert repository.settle(claim, UNREACHABLE, RULES, NOW)
    set_sink(repository, state="UP")
    fail_alone(repository, ENOUGH_FAILURES)
    claims = [repository.claim_left_over("sender", POLICY, LATER, 100) for _ in range(3)]
    assert [span(one) for one in claims] == [(1, 2), (5, 5), None]
    assert apart(repository)[0] == (3, 4)
    assert audit(repository) == []


def test_a_probe_of_the_sink_is_another_sensors_if_there_is_one(repository):
    isolate(repository)
    capture(repository, "ba")
    set_sink(repository, state="DOWN", next_probe_at=NOW)
    top = repository.counts().captured
    assert span(repository.claim_probe("retrier", POLICY, NOW, 100)) == (top, top)
    assert repository.claim_probe("retrier", POLICY, NOW, 100).size == 1, "else one of these"


# Trying again


def test_the_sensor_is_tried_by_itself_when_it_is_due_with_the_least_recently_tried(repository):
    isolate(repository)
    capture(repository, "bbb")
    top = repository.counts().captured
    assert fresh(repository) is None
    assert 0 < repository.due_in(POLICY, NOW) <= RULES.backoff.ceiling(1)
    assert repository.claim_due("retrier", POLICY, NOW, 100) is None
    tried = []
    for _ in range(8):
        claim = repository.claim_due("retrier", POLICY, LATER, 100)
        assert claim.size == 1
        tried.append(claim.first_id)
        assert repository.settle(claim, ERROR, RULES, NOW)
        capture(repository, "a")
        send(repository, DELIVERED)
        assert rows(repository, "SELECT state FROM sink") == [("UP",)]
        execute(repository, "UPDATE suspect SET next_probe_at = 0")
    assert tried == [top - 2, top - 1, top, 1, 3, 5, 7, 9], "those set aside were never tried"


def test_many_isolated_sensors_do_not_keep_others_from_their_turn(repository):
    """Each is due again before all have been tried."""
    isolate(repository)
    execute(repository, "UPDATE suspect SET next_probe_at = 5.0")
    capture(repository, "a")
    claim = repository.claim_fresh("sender", POLICY, NOW, 1)
    assert repository.settle(claim, REFUSED, RULES, NOW)
    execute(repository, "UPDATE batch SET next_attempt_at = 4.0 WHERE isolated IS NULL")
    assert span(repository.claim_due("retrier", POLICY, LATER, 1)) == span(claim)
    assert repository.claim_due("retrier", POLICY, LATER, 1).first_id == 1


def test_one_that_cannot_be_sent_is_not_tried_without_a_pause(unaudited):
    """Its row is damaged."""
    isolate(unaudited)
    execute(unaudited, "UPDATE suspect SET next_probe_at = 0")
    claim = unaudited.claim_due("retrier", POLICY, LATER, 1)
    assert unaudited.settle(claim, UNSENT, RULES, LATER)
    assert unaudited.claim_due("retrier", POLICY, LATER, 1) is None
    assert unaudited.due_in(POLICY, LATER) >= BACKOFF.initial_delay / 2


def test_each_failure_puts_the_next_try_off(repository):
    isolate(repository)
    waits = []
    for _ in range(20):
        execute(repository, "UPDATE suspect SET next_probe_at = 0")
        claim = repository.claim_due("retrier", POLICY, LATER, 1)
        assert repository.settle(claim, ERROR, RULES, NOW)
        capture(repository, "a")
        send(repository, DELIVERED)
        waits.append(rows(repository, "SELECT next_probe_at FROM suspect")[0][0] - NOW)
    assert max(waits[:2]) <= RULES.backoff.ceiling(3)
    assert max(waits[10:]) > RULES.backoff.ceiling(3)


def test_one_that_is_taken_lets_the_sensor_in_and_all_that_waits(repository):
    isolate(repository)
    capture(repository, "bab")
    assert fresh(repository)
    execute(repository, "UPDATE suspect SET next_probe_at = 0")
    claim = repository.claim_due("retrier", POLICY, LATER, 1)
    assert repository.settle(claim, DELIVERED, RULES, NOW)
    assert events(repository, "sensor let in") == ["b"]
    assert (isolated(repository), apart(repository)) == ([], [])
    left = 0
    while claim := repository.claim_left_over("sender", POLICY, LATER, 100):
        assert repository.settle(claim, DELIVERED, RULES, NOW)
        left += 1
    assert left == ENOUGH_FAILURES
    assert repository.counts().pending == 1


def test_each_time_it_takes_more_of_them_in_a_row(repository):
    """A sensor of which some readings are good must not go in and out."""
    taken = []
    for _ in range(5):
        while not isolated(repository):
            fail_alone(repository, 1)
        capture(repository, "b" * 200)
        assert fresh(repository, 200) is None
        assert repository.claim_left_over("sender", POLICY, NOW, 100) is None
        taken.append(0)
        while isolated(repository):
            claim = repository.claim_due("retrier", POLICY, NOW + POLICY.longest + 1, 1)
            assert repository.settle(claim, DELIVERED, RULES, NOW)
            taken[-1] += 1
        while claim := repository.claim_left_over("sender", POLICY, LATER, 100):
            assert repository.settle(claim, DELIVERED, RULES, NOW)
    assert taken == [1, 4, 16, 64, 64]


def test_very_much_that_waits_is_let_in_bite_by_bite(repository, monkeypatch):
    isolate(repository)
    monkeypatch.setattr(suspects, "LET_IN_CHUNK", 2)
    execute(repository, "DELETE FROM suspect")
    chunks = 0
    while repository.let_in(NOW):
        chunks += 1
    assert (chunks, apart(repository)) == (3, [])


def test_a_sensor_that_is_gone_is_forgotten(repository):
    isolate(repository)
    assert not repository.let_in(LATER)
    waiting = "(SELECT first_id FROM batch WHERE isolated = 'b')"
    execute(repository, f"UPDATE message SET status = 'DEAD' WHERE id IN {waiting}")
    execute(repository, "UPDATE batch SET status = 'DEAD' WHERE isolated = 'b'")
    assert not repository.let_in(NOW + POLICY.longest), "it may come again"
    assert repository.let_in(NOW + POLICY.longest + WELL_SECONDS)
    assert isolated(repository) == []
    assert events(repository, "sensor let in") == ["b: nothing of it waits"]
    assert not repository.let_in(LATER)


def test_at_most_once_what_may_have_arrived_is_not_tried_again(repository):
    isolate(repository)
    execute(repository, "UPDATE batch SET fate_unknown = 1 WHERE isolated = 'b'")
    assert repository.claim_due("retrier", POLICY_ONCE, LATER, 1) is None
    assert repository.due_in(POLICY_ONCE, LATER) > 0
    assert repository.claim_due("retrier", POLICY, LATER, 1) is not None


def test_what_a_person_requeues_is_set_apart_anew_when_its_turn_comes(repository):
    isolate(repository)
    execute(repository, "UPDATE batch SET status = 'DEAD', isolated = NULL WHERE first_id = 1")
    execute(repository, "UPDATE message SET status = 'DEAD' WHERE id = 1")
    assert repository.requeue(1, 1, NOW) == 1
    assert repository.claim_left_over("sender", POLICY, NOW, 1) is None
    assert (1, 1) in apart(repository)


# The clock


def test_a_clock_that_is_set_back_or_a_repaired_secret_makes_the_try_due(repository):
    isolate(repository)
    assert repository.claim_due("retrier", POLICY, NOW, 1) is None
    repository.probe_now(NOW - 5000)
    assert repository.claim_due("retrier", POLICY, NOW - 5000, 1) is not None
    repository.note_clock(Moment(1.0, NOW, 1.0), "a boot")
    execute(repository, "UPDATE suspect SET next_probe_at = :at", at=NOW + 100)
    repository.note_clock(Moment(2.0, NOW - 999.0, 2.0), "a boot")
    assert repository.claim_due("retrier", POLICY, NOW - 999.0, 1) is not None
    [(since,)] = rows(repository, "SELECT since FROM suspect")
    assert since == NOW - 1000.0


def test_a_time_further_ahead_than_any_wait_is_a_clock_that_jumped_and_due(repository):
    isolate(repository)
    execute(repository, "UPDATE suspect SET next_probe_at = :at", at=NOW + POLICY.longest + 1)
    assert repository.due_in(POLICY, NOW) == 0
    assert repository.claim_due("retrier", POLICY, NOW, 1) is not None


def test_the_rate_limit_holds_for_them_too(repository):
    isolate(repository)
    limited = replace(POLICY, max_rate=1.0)
    assert repository.claim_due("retrier", limited, LATER, 1) is not None
    assert repository.claim_due("retrier", limited, LATER + 0.5, 1) is None
