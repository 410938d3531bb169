"""DEAD messages keep their place among others, and no room to be had is no reason to hurry (P5)."""

import contextlib
from dataclasses import replace

import pytest
from clocks import ManualClock
from storage_fixtures import POLICY, LockCounter, batch_ranges, deliver, fill, park

from sensor_node.config.loader import load_config
from sensor_node.processes.housekeeping_service import HousekeepingService
from sensor_node.storage.repository import SensorDataSQLRepository


@pytest.fixture
def keeper(place, repository):
    """The service, its own repository, and its clock."""
    file = place / "config.ini"
    file.write_text("[sensor:room]\n[storage]\nmax_size = 4MiB\n")
    own, clock = SensorDataSQLRepository(repository.path, LockCounter()), ManualClock()
    with contextlib.closing(own):
        yield HousekeepingService(load_config(file), own, lambda: False, 0), own, clock


@pytest.mark.parametrize("delivered", [900, 1000, 1100])
def test_dead_messages_below_their_share_stay_however_many_were_delivered(
    keeper, repository, delivered
):
    service, _, clock = keeper
    fill(repository, 1000 + delivered, int(clock.wall * 1e6), clock.wall)
    for _ in range(10):
        park(repository, 100, "DEAD", clock.wall)
    for _ in range(delivered // 100):
        deliver(repository, 100, clock.wall)
    before = batch_ranges(repository)
    for _ in range(5):
        service.step(clock.now())
        clock.advance(1)
    assert batch_ranges(repository) == before


def test_without_room_and_with_nothing_to_give_up_it_waits_for_what_is_being_sent(
    keeper, repository, monkeypatch
):
    service, own, clock = keeper
    fill(repository, 10, int(clock.wall * 1e6), clock.wall)
    assert repository.claim_fresh("sender", POLICY, clock.wall, 10).size == 10
    space = own.space(service._room)
    monkeypatch.setattr(own, "space", lambda room: replace(space, used=space.limit))
    for _ in range(3):
        assert service.step(clock.now()) > 0
        clock.advance(1)
    assert batch_ranges(repository) == [(1, 10, "SENDING")]
