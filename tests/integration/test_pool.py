"""The senders are a pool: while one waits for an answer, the others work."""

import contextlib
import time

from crash.node import running
from sinks import SinkProcess, delay
from waiting import wait_until

SLOW = {"sensor": {"rate": 200}, "sink": {"batch_size": 1}, "log": {"level": "info"}}
DELAY_SECONDS = 0.2
SPAN_SECONDS = 2.4


def requests_within(sink: SinkProcess, start: float, end: float) -> int:
    return sum(start <= request.monotonic < end for request in sink.requests())


def test_four_senders_deliver_three_times_what_one_does_to_a_slow_sink(tmp_path):
    with contextlib.ExitStack() as stack:
        nodes, sinks = [], []
        for senders in (1, 4):
            place = tmp_path / str(senders)
            place.mkdir()
            pair = running(place, process={"senders": senders}, **SLOW)
            node, sink = stack.enter_context(pair)
            sink.behave(delay(DELAY_SECONDS))
            nodes.append(node)
            sinks.append(sink)
        for sink in sinks:
            before = sink.request_count()
            wait_until(lambda sink=sink, n=before: sink.request_count() >= n + 2)
        start = time.monotonic()
        time.sleep(SPAN_SECONDS)
        one, four = (requests_within(sink, start, start + SPAN_SECONDS) for sink in sinks)
        print(f"one sender: {one} batches in {SPAN_SECONDS} s, four: {four}")
        for node in nodes:
            assert node.one("SELECT max(id) FROM message") > node.one("SELECT count(*) FROM batch")
        assert four >= 3 * one > 0
