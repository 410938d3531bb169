"""P6, P7: a drain keeps to max_rate, goes oldest first, and `status` says when it will be over."""

import time
from typing import Any

from crash.node import Node, running
from faults.outages import await_down, await_up, verdict_of
from sinks import SinkProcess, answer, ok
from waiting import wait_until

from sensor_node.control.status_text import render

MAX_RATE, RATE, BATCH = 750, 300, 100
OUTAGE_SECONDS = 9.0
# Two senders and the retrier, each with one batch.
SIDE_BY_SIDE = 3
# `status` must have seen some delivery to tell how fast it is.
SETTLED_SECONDS = 2.0
TALLY = "SELECT coalesce(sum(n), 0) FROM tally WHERE status = ?"
UNDELIVERED = "SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'message') - n FROM tally"
LEFT = f"{UNDELIVERED} WHERE status = 'SENT'"
# Batches, and when their last attempt began.
CLAIMS = """
SELECT claimed_at, last_id - first_id + 1 FROM batch WHERE first_id BETWEEN ? AND ?
ORDER BY claimed_at
"""
TRANSIT_SECONDS = 0.25
OLDEST = "SELECT min(timestamp_us) FROM message WHERE status != 'SENT'"


def batches(sink: SinkProcess, after: float) -> list[tuple[float, list[int]]]:
    """When each request came, from `after` on (monotonic), and the numbers in it."""
    times = {request.no: request.monotonic for request in sink.requests()}
    found: dict[int, list[int]] = {}
    for copy in sink.messages():
        if times[copy.request_no] >= after:
            found.setdefault(copy.request_no, []).append(int(copy.id.rpartition("-")[2]))
    return [(times[no], numbers) for no, numbers in sorted(found.items())]


def pace(batches: list[tuple[float, int]]) -> float:
    """Messages a second; each batch is paid for before the next."""
    return sum(size for _, size in batches[:-1]) / (batches[-1][0] - batches[0][0])


def estimate(node: Node) -> dict[str, Any] | None:
    """What `status` says, once it says when the backlog will be gone."""
    told = node.status()
    return None if told["drain_eta_seconds"] is None else told


def assert_oldest_first(firsts: list[int]) -> None:
    """When a batch arrives, all older ones have, but for those in other processes' hands."""
    for place, first in enumerate(firsts):
        missing = [other for other in firsts[place + 1 :] if other < first]
        assert len(missing) < SIDE_BY_SIDE, (first, missing)


def test_a_drain_keeps_to_max_rate_goes_oldest_first_and_status_tells_its_end(tmp_path):
    """The sink answers 503 before, and each probe leaves another batch FAILED."""
    limits = {"max_rate": MAX_RATE, "batch_size": BATCH}
    with running(tmp_path, sink=limits, sensor={"rate": RATE}) as (node, sink):
        node.await_delivered(1)
        sink.behave(answer(503))
        await_down(node, "503")
        node.await_captured(int(OUTAGE_SECONDS * RATE))
        assert node.one(TALLY, "FAILED"), "what was in flight, and a message a probe"
        assert node.status()["drain_eta_seconds"] is None

        sink.behave(ok())
        await_up(node)
        began = time.monotonic()
        wait_until(lambda: time.monotonic() > began + SETTLED_SECONDS, what="rates have settled")
        # On a slow machine no more is delivered at first than is captured.
        told = wait_until(lambda: estimate(node), what="status tells its end")
        asked, truth = time.monotonic(), time.time() - node.one(OLDEST) / 1e6
        text = render(told, colour=False)
        wait_until(lambda: node.one(LEFT) <= RATE / 2, deadline=90, what="the backlog is gone")
        left, ended = time.monotonic() - asked, time.monotonic()

        behind, eta = told["oldest_undelivered_seconds"], told["drain_eta_seconds"]
        print(f"behind {behind:.1f} s, truly {truth:.1f} s; drained in {eta} s, truly {left:.1f} s")
        print(f"rates {told['rates']}")
        assert abs(behind - truth) < 3
        assert left / 2 < eta < left * 2 + 1
        assert "(the oldest undelivered)" in text
        assert "drained in" in text

        verdict_of(node, sink)
        # Each at its first byte; the first one after the sink's return is the probe.
        _, *drain = [one for one in batches(sink, began - 1) if one[0] <= ended]
        arrived = [(at, len(numbers)) for at, numbers in drain]
        firsts = [numbers[0] for _, numbers in drain]
        sent = node.rows(CLAIMS, min(firsts), max(firsts))
        print(f"{pace(sent):.0f}/s of {MAX_RATE}/s sent, {pace(arrived):.0f}/s arrived")
        assert pace(sent) < MAX_RATE * 1.05
        # The first may have been longer on its way than the last.
        assert pace(arrived) < MAX_RATE * (
            1.05 + TRANSIT_SECONDS / (arrived[-1][0] - arrived[0][0])
        )
        assert_oldest_first(firsts)
