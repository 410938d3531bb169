"""A checkpoint on a slow card is no hang: the supervisor is told that it may take long."""

import contextlib

import pytest

from sensor_node.storage.repository import SensorDataSQLRepository


class Watch:
    """What the supervisor is told about the write lock."""

    def __init__(self):
        self.told = []

    def waiting(self):
        self.told.append("waiting")

    def holding(self):
        self.told.append("holding")

    def released(self):
        self.told.append("released")


@pytest.mark.parametrize("truncate", [False, True])
def test_who_moves_the_log_is_not_taken_for_one_that_hangs_with_the_lock(place, truncate):
    watch = Watch()
    path = place / "telemetry.db"
    with contextlib.closing(SensorDataSQLRepository(path, watch)) as repository:
        watch.told.clear()
        repository.checkpoint(truncate=truncate)
        assert watch.told == ["waiting", "holding", "waiting", "released"]
