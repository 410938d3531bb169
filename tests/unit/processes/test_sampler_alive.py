"""Only one thread takes a sensor's ticks: at the end nobody does what the sampler still may."""

import threading

from clocks import ManualClock

from sensor_node.processes.buffer import Buffer
from sensor_node.processes.sampler import Sampler
from sensor_node.processes.sensor import Sensor
from sensor_node.sensors import SOURCES, open_source
from sensor_node.sensors.source import SensorConfig


def test_ticks_of_a_thread_that_did_not_end_are_left_to_it(tmp_path):
    source = next(row for row in SOURCES if row.is_simulated)
    settings = {option.name: option.kind.parse(option.default) for option in source.options}
    config = SensorConfig("room", source, 1.0, settings)
    buffer, clock = Buffer((config,), 0.0), ManualClock()
    sensor = Sensor(config, lambda: open_source(config, tmp_path), buffer, clock.now())
    sampler = Sampler([sensor], clock, lambda: None)
    sampler.take_due(clock.now())
    # Not one that runs: what it takes would depend on when.
    sampler._thread = threading.current_thread()
    clock.advance(3)
    sampler.settle(clock.now())
    assert len([reading for chunk in buffer.oldest(100) for reading in chunk]) == 1
    assert sum(drop.count for drop in buffer.dropped()) == 3
