"""P6: waits grow, are capped, are spread out after the cap, and never overflow."""

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor_node.core.schedule import (
    RESTART_DELAY_CAP_SECONDS,
    RETRY_AFTER_CAP_SECONDS,
    BackoffPolicy,
    exponential,
    restart_delay,
)

DEFAULTS = BackoffPolicy(initial_delay=1.0, multiplier=2.0, max_delay=300.0)
NODES = 10_000
BINS = 20
# Chi-square with 19 degrees of freedom is above this once in a thousand fair draws.
CHI_SQUARE_LIMIT = 43.8

policies = st.builds(
    BackoffPolicy,
    initial_delay=st.floats(0.01, 3600),
    multiplier=st.floats(1, 100),
    max_delay=st.floats(3600, 86_400),
)


@pytest.fixture(autouse=True)
def fixed_seed():
    """The backoff package draws from the module's own generator."""
    state = random.getstate()
    random.seed(20261123)
    yield
    random.setstate(state)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (11, 300)]
)
def test_the_ceiling_doubles_from_the_first_failure_on_up_to_the_cap(failures, seconds) -> None:
    assert DEFAULTS.ceiling(failures) == seconds


@given(policies, st.integers(1, 10**18))
def test_a_wait_is_never_shorter_than_half_the_initial_delay_nor_longer_than_the_ceiling(
    policy, failures
) -> None:
    for _ in range(20):
        wait = policy.delay(failures)
        assert policy.initial_delay / 2 <= wait <= policy.ceiling(failures)
    assert policy.ceiling(failures) <= policy.max_delay


def test_the_floor_is_reached_and_is_half_the_initial_delay() -> None:
    policy = BackoffPolicy(initial_delay=10.0, multiplier=1.0, max_delay=10.0)
    assert min(policy.delay(1) for _ in range(100)) == 5.0


@pytest.mark.parametrize("failures", [10**3, 10**6, 2**63 - 1, 10**30])
@pytest.mark.parametrize("multiplier", [1.0, 1.0001, 2.0, 100.0])
def test_a_huge_number_of_failures_neither_overflows_nor_takes_long(failures, multiplier) -> None:
    policy = BackoffPolicy(initial_delay=0.01, multiplier=multiplier, max_delay=86_400.0)
    assert 0.01 <= policy.ceiling(failures) <= 86_400.0
    assert 0.005 <= policy.delay(failures) <= 86_400.0


@pytest.mark.parametrize("failures", [0, -1])
def test_no_failure_yet_waits_as_after_the_first(failures) -> None:
    assert DEFAULTS.ceiling(failures) == DEFAULTS.initial_delay


def test_ten_thousand_nodes_at_the_cap_come_back_evenly_spread() -> None:
    """The jitter comes after the cap: from 0 to max_delay, no bin of the 300 s is crowded."""
    counts = [0] * BINS
    for _ in range(NODES):
        counts[min(BINS - 1, int(DEFAULTS.delay(50) / DEFAULTS.max_delay * BINS))] += 1
    expected = NODES / BINS
    chi_square = sum((count - expected) ** 2 / expected for count in counts)
    assert chi_square < CHI_SQUARE_LIMIT, counts


def test_no_second_of_the_cap_sees_more_than_twice_its_share_of_the_fleet() -> None:
    arrivals = [0] * 301
    for _ in range(NODES):
        arrivals[int(DEFAULTS.delay(50))] += 1
    assert max(arrivals) < 2 * NODES / DEFAULTS.max_delay


def test_no_honest_deadline_is_further_ahead_than_the_longest_wait() -> None:
    assert DEFAULTS.longest == RETRY_AFTER_CAP_SECONDS
    patient = BackoffPolicy(initial_delay=1.0, multiplier=2.0, max_delay=86_400.0)
    assert patient.longest == 86_400.0


def test_the_exponential_is_exact_where_nothing_caps_it() -> None:
    assert [exponential(n, 0.5, 3.0, 1e9) for n in range(1, 6)] == [0.5, 1.5, 4.5, 13.5, 40.5]


def test_without_its_library_a_wait_is_the_whole_ceiling(monkeypatch) -> None:
    """A process that may open no more files cannot load it, and must settle all the same."""
    monkeypatch.setitem(sys.modules, "backoff", None)
    assert [DEFAULTS.delay(failures) for failures in (1, 2, 3, 100)] == [1.0, 2.0, 4.0, 300.0]


@pytest.mark.parametrize(
    ("short_lives", "seconds"), [(0, 0), (1, 1), (2, 2), (5, 16), (6, 30), (7, 30), (10**9, 30)]
)
def test_a_child_that_dies_young_waits_longer_each_time_up_to_half_a_minute(
    short_lives, seconds
) -> None:
    assert restart_delay(short_lives) == seconds
    assert seconds <= RESTART_DELAY_CAP_SECONDS
