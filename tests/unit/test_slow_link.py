"""Everything arrives over a link on which a full batch never ends in time (P2, P5), simulated."""

import json

import pytest
from clocks import ManualClock
from storage_fixtures import BUSY, DELIVERED, SILENT, UNREACHABLE, fill, rows

from sensor_node.config.loader import load_config
from sensor_node.delivery.batch_sender import BatchSender
from sensor_node.processes.delivery_service import DeliveryService
from sensor_node.processes.retry_service import RetryService
from sensor_node.storage.repository import SensorDataSQLRepository

TIMEOUT = 30.0
HOUR = 3600.0
# Looking for work each tenth of a second would take the simulation long, and finds no more.
LEAST_DELAY = 1.0


class Link:
    """Carries so many messages a second; what takes longer than the timeout never arrives."""

    files = frozenset()

    def __init__(self, clock, messages_a_second):
        self.clock = clock
        self.speed = messages_a_second
        self.down = None
        self.sizes = []

    def post(self, body, key):
        size = len(json.loads(body))
        self.sizes.append(size)
        if self.down:
            self.clock.advance(TIMEOUT)
            return self.down
        self.clock.advance(min(0.1 + size / self.speed, TIMEOUT))
        return DELIVERED if 0.1 + size / self.speed < TIMEOUT else SILENT

    def close(self):
        """Nothing."""


class Node:
    """A sender and the retrier, in turns: never at the same time, as requests share the link."""

    def __init__(self, place, repository, speed):
        file = place / "config.ini"
        file.write_text(f"[sensor:room]\n[sink]\nbatch_size = 100\ntimeout = {TIMEOUT:g}s\n")
        config = load_config(file)
        self.clock = ManualClock()
        self.link = Link(self.clock, speed)
        self.repository = repository
        own = [SensorDataSQLRepository(repository.path) for _ in range(2)]
        couriers = [
            BatchSender(config, one, lambda: self.link, self.clock, lambda: None) for one in own
        ]
        self.services = [
            DeliveryService(config, "sender:b:1:1", own[0], couriers[0], lambda wanted: None),
            RetryService(config, "retrier:b:2:2", own[1], couriers[1]),
        ]

    def run(self, seconds, a_second=0):
        """So many messages are captured a second meanwhile."""
        end, captured = self.clock.wall + seconds, self.clock.wall
        while self.clock.wall < end:
            if new := int((self.clock.wall - captured) * a_second):
                fill(self.repository, new, int(self.clock.wall * 1e6), self.clock.wall)
                captured += new / a_second
            delays = [service.step(self.clock.now()) for service in self.services]
            if all(delays):
                self.clock.advance(max(LEAST_DELAY, min(delays)))

    def close(self):
        for service in self.services:
            service.finish(self.clock.now())


@pytest.fixture
def make(place, repository, monkeypatch):
    monkeypatch.setattr("sensor_node.processes.owner.is_alive", lambda owner: True)
    nodes = []

    def of_speed(speed):
        nodes.append(Node(place, repository, speed))
        return nodes[-1]

    yield of_speed
    for node in nodes:
        node.close()


@pytest.mark.parametrize(("speed", "backlog"), [(3.0, 3000), (1.0, 1000), (0.1, 200)])
def test_what_is_behind_a_link_that_carries_no_full_batch_arrives(make, repository, speed, backlog):
    """At 0.1 messages a second a request can hold two."""
    node = make(speed)
    fill(repository, backlog, 0, node.clock.wall)
    node.run(3 * backlog / speed + HOUR)
    counts = repository.counts()
    assert (counts.undelivered, counts.dead) == (0, 0)
    late = sum(0.1 + size / speed >= TIMEOUT for size in node.link.sizes)
    assert late < 20  # it is found out once, and kept to


def test_capture_may_go_on_at_half_of_what_the_link_carries(make, repository):
    node = make(3.0)
    fill(repository, 2000, 0, node.clock.wall)
    node.run(HOUR, a_second=1.5)
    assert repository.counts().undelivered < 100


def test_a_link_that_is_fast_again_carries_full_batches_again(make, repository):
    node = make(1.0)
    fill(repository, 500, 0, node.clock.wall)
    node.run(HOUR)
    assert max(node.link.sizes[-10:]) < 50
    node.link.speed = 1000.0
    fill(repository, 2000, 0, node.clock.wall)
    node.run(HOUR)
    assert repository.counts().undelivered == 0
    assert node.link.sizes.count(100) > 10


def test_a_sink_that_cannot_be_reached_says_nothing_about_the_size(make, repository):
    node = make(1000.0)
    fill(repository, 5000, 0, node.clock.wall)
    node.link.down = UNREACHABLE
    node.run(HOUR)
    sender, *probes = node.link.sizes
    assert (sender, set(probes)) == (100, {1})
    node.link.down = None
    node.run(HOUR)
    assert node.link.sizes.count(100) > 10


def test_a_sink_that_is_busy_only_after_a_long_time_is_sent_less(make, repository):
    """It has answered, and so was sent all: the link may be why it took long."""
    node = make(1000.0)
    fill(repository, 5000, 0, node.clock.wall)
    node.link.down = BUSY
    node.run(60.0)
    assert node.link.sizes[:2] == [100, 1], "the sender, then the retrier"
    node.link.down = None
    node.run(HOUR)
    assert next(size for size in node.link.sizes[1:] if size > 1) == 50


def test_a_sink_that_hangs_for_long_leaves_few_small_batches(make, repository):
    node = make(1000.0)
    fill(repository, 50_000, 0, node.clock.wall)
    node.link.down = SILENT
    node.run(12 * HOUR)
    probes = len(node.link.sizes)
    assert probes < 12 * HOUR / 150 * 1.5
    node.link.down = None
    node.run(HOUR)
    assert repository.counts().undelivered == 0
    assert len(node.link.sizes) - probes < probes + 600
    [(batches,)] = rows(repository, "SELECT count(*) FROM batch")
    assert batches < probes + 600
