"""P6: an outage of an hour, in simulated time: services and repository are the real ones."""

import itertools
import random
from pathlib import Path

import pytest
from clocks import ManualClock

from sensor_node.config.loader import load_config
from sensor_node.core.model import Outcome, Reading, Verdict
from sensor_node.delivery.batch_sender import BatchSender
from sensor_node.processes.delivery_service import DeliveryService
from sensor_node.processes.retry_service import RetryService
from sensor_node.storage.journal.runs import NodeIdentity
from sensor_node.storage.queue.room import SizeLimits
from sensor_node.storage.repository import SensorDataSQLRepository

HOUR = 3600.0
# The schedule of config.ini. Full jitter waits half of the ceiling on average: 255 s for the nine
# tries until the ceiling is five minutes, then 150 s each.
INITIAL_DELAY, MULTIPLIER, MAX_DELAY = 1.0, 2.0, 300.0
EXPECTED_ATTEMPTS = 9 + (HOUR - 255) / (MAX_DELAY / 2)
REFUSED = Outcome(Verdict.TRY_LATER, "connection refused", fate_known=True)


class RefusingClient:
    """Nobody listens. Notes when it was asked to connect."""

    files = frozenset()

    def __init__(self, clock):
        self._clock = clock
        self.attempts = []

    def post(self, body, key):
        self.attempts.append(self._clock.monotonic)
        return REFUSED

    def close(self):
        """Nothing is open."""


def simulate(directory: Path, seed: int) -> list[float]:
    """An hour of two senders and a retrier, one reading a second; when each attempt was made."""
    random.seed(seed)
    directory.mkdir()
    file = directory / "config.ini"
    file.write_text("[sensor:room]\nsource = mock\n")
    config = load_config(file)
    config.state_directory.mkdir()
    clock = ManualClock()
    client = RefusingClient(clock)
    repositories = [SensorDataSQLRepository(config.storage.path) for _ in range(4)]
    capture, *others = repositories
    batch_senders = [
        BatchSender(config, repository, lambda: client, clock, lambda: None)
        for repository in others
    ]
    capture.begin_run(NodeIdentity("edge-01", {}), clock.wall, "run")
    services = [
        DeliveryService(config, "sender:b:1:1", others[0], batch_senders[0], lambda wanted: None),
        DeliveryService(config, "sender:b:2:1", others[1], batch_senders[1], lambda wanted: None),
        RetryService(config, "retrier:b:3:1", others[2], batch_senders[2]),
    ]
    due = [clock.monotonic] * 4
    end = clock.monotonic + HOUR
    try:
        while (now := min(due)) < end:
            moment = clock.advance(now - clock.monotonic)
            place = due.index(now)
            if place == 3:
                reading = Reading("room", 1.0, moment.wall_us)
                assert capture.capture([reading], [], moment.wall, SizeLimits(1 << 40, 0))
                due[3] += 1.0
            else:
                # As the loop of each process does: at least once a second.
                due[place] += min(max(services[place].step(moment), 0.001), 1.0)
        assert capture.counts().undelivered == HOUR
    finally:
        for repository in repositories:
            repository.close()
    return client.attempts


@pytest.mark.parametrize("seed", range(2))
def test_an_hours_outage_costs_no_more_attempts_than_the_schedule_allows(tmp_path, seed):
    attempts = simulate(tmp_path / "hour", seed)
    print(f"{len(attempts)} attempts in an hour; {EXPECTED_ATTEMPTS:.0f} are the schedule's mean")
    assert len(attempts) < 2 * EXPECTED_ATTEMPTS
    # However lucky the draws are: never sooner than half of initial_delay, once it is DOWN.
    probes = attempts[1:]
    waits = [b - a for a, b in itertools.pairwise(probes)]
    assert min(waits) >= INITIAL_DELAY / 2
    assert max(waits) < MAX_DELAY + 1
