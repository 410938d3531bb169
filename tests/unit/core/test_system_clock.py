"""What time it is."""

import time

import pytest

from sensor_node.core import clock


@pytest.fixture
def interrupt(monkeypatch):
    """Every clock goes by one time; some readings of the wall clock come so much later."""
    state = {"at": 1000.0, "pauses": []}

    def wall():
        state["at"] += state["pauses"].pop(0) if state["pauses"] else 0.0
        return state["at"] + 1e9

    monkeypatch.setattr(time, "monotonic", lambda: state["at"])
    monkeypatch.setattr(time, "time", wall)
    monkeypatch.setattr(time, "clock_gettime", lambda _: state["at"] + 50.0)

    def interrupt(*pauses):
        state["pauses"] = list(pauses)

    return interrupt


@pytest.mark.parametrize("pauses", [(), (0.04,), (0.002, 0.5, 3.0)])
def test_a_moment_is_one_instant_however_often_the_process_is_interrupted(interrupt, pauses):
    interrupt(*pauses)
    now = clock.SystemClock().now()
    assert now.wall - now.monotonic == 1e9
    assert now.boottime - now.monotonic == 50.0


def test_a_process_that_is_interrupted_each_time_gets_a_moment_all_the_same(interrupt):
    interrupt(*[0.5] * 100)
    now = clock.SystemClock().now()
    assert 0 < now.wall - now.monotonic - 1e9 <= 0.5
