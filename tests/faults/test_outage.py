"""P1, P2, P5, P7: a million readings pile up, then go out oldest first; capture notices nothing."""

import os
import socket
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from crash.node import Node, assert_on_grid
from faults.tally_sink import Run, TallySink
from waiting import wait_until

MESSAGES = 1_000_000
PILING_RATE, MODEST_RATE = 250_000, 50
BATCH = 1000
# Two senders and the retrier, each with one batch.
SIDE_BY_SIDE = 3
NETWORK = ("sender-1", "sender-2", "retrier")
MOST_GROWTH_BYTES = 10 * 1024**2
# A reading waits for the next commit, and at worst as long as anybody may hold the write lock.
LATEST_SECONDS = 5.0
LOOK_SECONDS = 0.1
NEWEST = "SELECT id, timestamp_us FROM message ORDER BY id DESC LIMIT 1"
OLDEST = "SELECT min(timestamp_us) FROM message WHERE status != 'SENT'"
TIMES = "SELECT timestamp_us FROM message WHERE id > ? ORDER BY id"
SENT = "SELECT n FROM tally WHERE status = 'SENT'"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
IDLE_SECONDS = 15.0
MOST_CPU_SHARE = 0.01
# In a minute: 2 to find the sink DOWN, then ceilings of 1, 2, 4 ... s, of which half is waited.
MOST_ATTEMPTS = 20


class Watch:
    """Looks all the time: the most memory of each process, how old the newest reading is."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.rss: dict[str, int] = {}
        self.lags: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            for name, pid in self.node.pids().items():
                self.rss[name] = max(self.rss.get(name, 0), rss_bytes(pid))
            [(_, newest_us)] = self.node.rows(NEWEST)
            self.lags.append(time.time() - newest_us / 1e6)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def lateness(self) -> str:
        median = sorted(self.lags)[len(self.lags) // 2]
        return f"median {median:.3f} s, most {max(self.lags):.3f} s of {len(self.lags)} looks"


def rss_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * PAGE_BYTES


def await_sent(node: Node, count: int) -> None:
    """By the tally: counting rows, of a million, would slow down what is waited for."""
    what = f"{count} readings are sent"
    wait_until(lambda: node.one(SENT) >= count, deadline=120, what=what)


def newest_id(node: Node) -> int:
    return int(node.rows(NEWEST)[0][0])


def assert_tells_how_far_behind(node: Node) -> None:
    """`status` in the outage, against the rows."""
    told = node.status()
    truth = time.time() - node.one(OLDEST) / 1e6
    print(f"behind {told['oldest_undelivered_seconds']:.1f} s, truly {truth:.1f} s")
    assert truth - 10 < told["oldest_undelivered_seconds"] <= truth
    assert told["counts"]["pending"] + told["counts"]["failed"] >= MESSAGES - MODEST_RATE * 10
    assert (told["sink"]["state"], told["drain_eta_seconds"]) == ("DOWN", None)
    text = node.run("status").stdout
    assert "(the oldest undelivered)" in text
    assert "it is tried again in" in text


def assert_memory_is_flat(empty: Watch, full: Watch) -> None:
    for name, most in full.rss.items():
        print(f"{name}: {empty.rss[name] / 1e6:.1f} MB empty, at most {most / 1e6:.1f} MB then")
        # Who had not sent anything then has loaded HTTP since, as the one that had.
        before = max(empty.rss.values()) if name in NETWORK else empty.rss[name]
        assert most - before < MOST_GROWTH_BYTES, name


def assert_oldest_first(runs: list[Run]) -> None:
    """When a batch arrives, all older ones have, but for those in other processes' hands."""
    for place, run in enumerate(runs):
        missing = [other for other in runs[place + 1 :] if other.first < run.first]
        assert len(missing) < SIDE_BY_SIDE, (run, missing)


def assert_none_skipped(runs: list[Run], count: int) -> None:
    """Every number from 1 to `count`: each start's stream counts on from the one before."""
    whole = sorted(runs, key=lambda run: run.first)
    assert whole[0].first == 1
    for left, right in pairwise(whole):
        # A batch whose answer was cut off by the outage comes again, whole.
        assert right.first == left.last + 1 or right.first == left.first, (left, right)
    assert whole[-1].last == count


class ClosingListener:
    """Takes each connection and closes it at once, and counts them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.times: list[float] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.times.append(time.monotonic())
            connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def cpu_seconds(pids: dict[str, int]) -> dict[str, float]:
    """User and system time of each process, fields 14 and 15 of /proc/PID/stat."""
    found = {}
    for name, pid in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found[name] = (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND
    return found


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """A node as it is installed, whose sink is away; how long it has been so, what it cost."""
    listener = ClosingListener()
    url = f"http://127.0.0.1:{listener.port}/telemetry"
    with Node(
        tmp_path_factory.mktemp("idle"),
        sensor={"rate": 1},
        sink={"url": url, "batch_size": 100},
        retry={"initial_delay": "1s", "max_delay": "5m"},
        log={"level": "info"},
    ) as node:
        node.start()
        # A sender has tried, and the retrier: both have loaded HTTP, which is done once.
        wait_until(lambda: len(listener.times) >= 2, what="both have tried")
        yield node, listener, cpu_seconds(node.pids()), time.monotonic()
    listener.close()


@pytest.fixture
def piled(tmp_path):
    """A node with a million readings to deliver, a sink for them, and the look of better days."""
    with (
        TallySink(tmp_path) as sink,
        Node(
            tmp_path / "node",
            sensor={"waveform": "constant", "rate": MODEST_RATE},
            storage={"max_size": "4GiB"},
            sink={"url": sink.url, "batch_size": BATCH},
            log={"level": "info"},
        ) as node,
    ):
        sink.start()
        node.start()
        node.await_delivered(MODEST_RATE)
        with Watch(node) as empty:
            node.await_delivered(3 * MODEST_RATE)
        sink.stop()
        node.stop()
        node.configure(sensor={"rate": PILING_RATE})
        node.start()
        wait_until(lambda: newest_id(node) > MESSAGES, deadline=120, what="a million readings")
        node.stop()
        # A machine that could not keep up with the rate has ticks left at the stop.
        given_up = node.dropped()
        node.configure(sensor={"rate": MODEST_RATE})
        node.start()
        yield node, sink, empty, given_up


@pytest.mark.usefixtures("idle")
def test_a_million_readings_go_out_oldest_first_in_flat_memory(piled):
    node, sink, empty, given_up = piled
    last = newest_id(node)
    with Watch(node) as draining:
        node.await_captured(last + MODEST_RATE)
        assert_tells_how_far_behind(node)
        sink.start()
        began = time.monotonic()
        sent = node.one(SENT)
        await_sent(node, last)
        drained = time.monotonic() - began
    print(f"{last - sent} readings in {drained:.1f} s")
    assert_memory_is_flat(empty, draining)
    print(f"latest reading: {empty.lateness}; while draining: {draining.lateness}")
    assert max(draining.lags) < LATEST_SECONDS

    node.await_delivered(newest_id(node))
    node.stop()
    assert node.dropped() == given_up
    assert_on_grid([us for (us,) in node.rows(TIMES, last)], MODEST_RATE)
    assert node.run("audit").returncode == 0
    runs = sink.received()
    assert_none_skipped(runs, node.one(SENT))
    probe, *after = [run for run in runs if run.at >= began]
    print(f"{len(after)} batches after the probe with {probe.first}-{probe.last}")
    assert_oldest_first(after)


def test_an_outage_costs_few_attempts_and_next_to_no_cpu(idle):
    """Its time is that of the test before."""
    node, listener, before, began = idle
    wait_until(lambda: time.monotonic() - began >= IDLE_SECONDS, deadline=60, what="some time")
    after, seconds = cpu_seconds(node.pids()), time.monotonic() - began
    spent = {name: 100 * (after[name] - before[name]) / seconds for name in before}
    print(f"{len(listener.times)} attempts in {seconds:.0f} s")
    print(f"CPU {sum(spent.values()):.2f} % of a core: {spent}")
    assert 3 <= len(listener.times) <= MOST_ATTEMPTS
    assert sum(spent.values()) < 100 * MOST_CPU_SHARE
    assert len(node.events("sink down")) == 1
