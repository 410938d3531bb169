"""Simulated readings keep their bounds, their shape and, by seed, every value."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor_node.sensors.mock import LARGEST_STEP, MockSettings, MockSource

WAVEFORMS = ("constant", "sine", "random-walk")
bounds = st.tuples(
    st.floats(-1e300, 1e300, allow_nan=False), st.floats(-1e300, 1e300, allow_nan=False)
).map(sorted)


def mock(
    waveform: str = "sine",
    low: float = 15,
    high: float = 25,
    noise: float = 0,
    seed: int | None = 1,
    rate: float = 10,
    period: float = 60,
) -> MockSource:
    settings = MockSettings(waveform, low, high, period, noise, seed)
    return MockSource("temperature", rate, settings)


def values(source: MockSource, count: int, first_tick: int = 0) -> list[float]:
    return [reading.value for reading in source.read(first_tick, range(count))]


def test_a_reading_carries_the_sensors_name_and_the_ticks_time() -> None:
    readings = mock().read(7, [1_000, 2_000])
    assert [(reading.name, reading.timestamp_us) for reading in readings] == [
        ("temperature", 1_000),
        ("temperature", 2_000),
    ]


def test_a_constant_stays_midway() -> None:
    assert set(values(mock("constant"), 1000)) == {20.0}


def test_a_sine_goes_from_min_to_max_once_a_period() -> None:
    wave = values(mock(rate=10, period=60), 600)
    assert wave[0] == 20.0
    assert wave[150] == pytest.approx(25.0)
    assert wave[300] == pytest.approx(20.0)
    assert wave[450] == pytest.approx(15.0)


def test_a_sine_is_a_function_of_the_tick_even_after_a_year() -> None:
    year = 365 * 86_400 * 10
    assert values(mock(), 600, year) == pytest.approx(values(mock(), 600), abs=1e-4)


@pytest.mark.parametrize("waveform", WAVEFORMS)
@given(bounds=bounds)
def test_a_waveform_without_noise_stays_between_min_and_max(
    waveform: str, bounds: tuple[float, float]
) -> None:
    low, high = bounds
    rounding = math.ulp(max(abs(low), abs(high)))
    for value in values(mock(waveform, low, high, rate=1, period=7), 50):
        assert low - rounding <= value <= high + rounding


def test_a_random_walk_stays_inside_however_long_it_goes_on() -> None:
    walk = values(mock("random-walk"), 100_000)
    assert min(walk) >= 15
    assert max(walk) <= 25


def test_a_random_walk_takes_small_steps_and_gets_everywhere() -> None:
    walk = values(mock("random-walk"), 100_000)
    assert all(abs(b - a) <= LARGEST_STEP * 10 for a, b in itertools.pairwise(walk))
    assert min(walk) < 15.5
    assert max(walk) > 24.5


@pytest.mark.parametrize("waveform", WAVEFORMS)
def test_the_same_seed_repeats_a_run(waveform: str) -> None:
    first, second = (mock(waveform, noise=0.5, seed=42) for _ in range(2))
    assert values(first, 500) == values(second, 500)


def test_another_seed_or_none_gives_another_run() -> None:
    runs = [values(mock("random-walk", seed=seed), 100) for seed in (1, 2, None, None)]
    assert all(a != b for a, b in itertools.combinations(runs, 2))


@pytest.mark.parametrize("waveform", WAVEFORMS)
@given(sizes=st.lists(st.integers(0, 40), max_size=10))
def test_chunks_give_the_same_as_one_big_call(waveform: str, sizes: list[int]) -> None:
    source = mock(waveform, noise=0.5)
    first_ticks = itertools.accumulate(sizes, initial=0)
    chunks = [
        values(source, size, first_tick)
        for size, first_tick in zip(sizes, first_ticks, strict=False)
    ]
    assert list(itertools.chain(*chunks)) == values(mock(waveform, noise=0.5), sum(sizes))


def test_noise_has_the_standard_deviation_that_was_asked_for() -> None:
    noisy = values(mock("constant", noise=2), 10_000)
    assert statistics.fmean(noisy) == pytest.approx(20, abs=0.1)
    assert statistics.stdev(noisy) == pytest.approx(2, rel=0.05)
