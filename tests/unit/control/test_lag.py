"""Whether delivery cannot keep up with capture, and what limits it."""

from dataclasses import replace

import pytest
from storage_fixtures import deliver, fill

from sensor_node.config.loader import SinkConfig
from sensor_node.config.schema import options_of
from sensor_node.control import lag
from sensor_node.core.clock import Moment
from sensor_node.core.model import SinkStatus
from sensor_node.core.settlement import SinkRecord
from sensor_node.storage.engine.connection import read_transaction
from sensor_node.storage.queue import lookup
from sensor_node.storage.queue.lookup import Requests

DEFAULTS = {
    option.name: option.kind.parse(option.default) for option in options_of("sink").values()
}
SINK = SinkConfig(**{**DEFAULTS, "batch_size": 100})
UP = SinkRecord(SinkStatus.UP, 3, 500.0, "", "", 0.0, 0, 1000, None, 1)
NOW = Moment(1000.0, 1_000_000.0, 1000.0)
SLOW = {"captured": 20.0, "delivered": 10.0, "seconds": 60.0}
LATE_US = int((NOW.wall - 61) * 1e6)


def find(sink=UP, config=SINK, rates=SLOW, oldest_us=LATE_US, requests=(9.5, 100.0)):
    return lag.find(sink, config, rates, oldest_us, Requests(*requests), NOW)


def test_a_backlog_that_grows_for_a_minute_is_told_with_what_limits_it():
    assert find() == {
        "captured": 20.0,
        "delivered": 10.0,
        "request_seconds": 9.5,
        "request_readings": 100.0,
        "limited_by": "batch_size",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"sink": replace(UP, state=SinkStatus.DOWN)},
        {"rates": {**SLOW, "seconds": 40.0}},
        {"rates": {"captured": None, "delivered": None, "seconds": None}},
        {"rates": {**SLOW, "delivered": 20.0}},
        {"oldest_us": None},
        {"oldest_us": LATE_US + 2_000_000},
        {"config": replace(SINK, send_interval=3600.0)},
    ],
)
def test_nothing_is_told_of_an_outage_a_drain_a_short_while_or_what_is_meant_to_wait(changes):
    assert find(**changes) is None


@pytest.mark.parametrize(
    ("config", "requests", "limited_by"),
    [
        ({"max_rate": 10.0}, (0.1, 10.0), "max_rate"),
        ({"max_rate": 100.0}, (0.1, 100.0), "batch_size"),
        ({"batch_size": 1}, (0.1, 1.0), "batch_size"),
        ({}, (4.0, 12.0), "link"),
        ({}, (0.0, 0.0), "link"),
    ],
)
def test_what_limits_it_is_the_first_that_is_used_up(config, requests, limited_by):
    assert find(config=replace(SINK, **config), requests=requests)["limited_by"] == limited_by


def test_what_is_set_apart_makes_batches_short():
    apart = replace(UP, isolated=1)
    assert find(sink=apart, requests=(0.1, 4.0))["limited_by"] == "isolated"
    assert find(sink=apart)["limited_by"] == "batch_size"


def test_where_no_request_is_known_nothing_is_said_of_it():
    what, _ = lag.complaint(find(requests=(0.0, 0.0)))
    assert what.endswith("20 readings/s are captured and 10/s delivered")


def test_requests_are_the_newest_that_were_delivered(repository):
    fill(repository, 40)
    for _ in range(3):
        deliver(repository, 10, now=50.0)
    with read_transaction(repository.path) as connection:
        assert lookup.requests(connection, 49.0) == (0.0, 10.0)
        assert lookup.requests(connection, 51.0) == (0.0, 0.0)
        assert lookup.oldest_pending_us(connection) == 30_000_000
