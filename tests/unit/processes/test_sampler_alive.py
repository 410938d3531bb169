"""Only one thread takes a sensor's ticks: at the end nobody does what the sampler still may."""

import threading
from dataclasses import replace

from clocks import ManualClock

from sensor_node.config.loader import SensorConfig
from sensor_node.config.schema import options_of
from sensor_node.processes.buffer import Buffer
from sensor_node.processes.sampler import Sampler
from sensor_node.processes.sensor import Sensor
from sensor_node.sensors.mock import MockSource

DEFAULTS = {
    name: option.kind.parse(option.default) for name, option in options_of("sensor").items()
}


def test_ticks_of_a_thread_that_did_not_end_are_left_to_it():
    config = replace(SensorConfig(name="room", **DEFAULTS), rate=1.0)
    buffer, clock = Buffer((config,), 0.0), ManualClock()
    sensor = Sensor(config, lambda: MockSource(config), buffer, clock.now())
    sampler = Sampler([sensor], clock, lambda: None)
    sampler.take_due(clock.now())
    # Not one that runs: what it takes would depend on when.
    sampler._thread = threading.current_thread()
    clock.advance(3)
    sampler.settle(clock.now())
    assert len([reading for chunk in buffer.oldest(100) for reading in chunk]) == 1
    assert sum(drop.count for drop in buffer.dropped()) == 3
