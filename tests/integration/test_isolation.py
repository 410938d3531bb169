"""P1: nothing that happens to a network process, or to the network, delays or loses a tick."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from crash import proc
from crash.node import Node, assert_nothing_lost, assert_on_grid, await_hanging, running
from sinks import hang
from waiting import wait_until

# Supervision kills a process that keeps others from the write lock for longer.
HOLD_SECONDS = 5.0
# P1: no reading is committed later than this, whatever the network does.
LATEST_SECONDS = 1.0
LOOK_SECONDS = 0.02
QUICK_END = {"senders": 3, "stop_timeout": "1s"}
NEWEST = "SELECT timestamp_us FROM message ORDER BY id DESC LIMIT 1"


def assert_no_tick_missed(node: Node) -> None:
    assert_on_grid(node.times_us(), node.rate)
    assert node.dropped() == 0


def stop_holder(node: Node) -> int:
    """SIGSTOP a sender that holds the write lock."""
    pids = node.pids()
    # One of them may have nothing to do.
    senders = {pids["sender-1"], pids["sender-2"]}
    pid = wait_until(lambda: senders & proc.holders(node.writer), 90, "one is at work").pop()
    proc.stop_in_the_act(pid, lambda: pid in proc.holders(node.writer))
    return pid


def stop_next(node: Node) -> int:
    """SIGSTOP a sender that has passed the turnstile, and waits for the holder of the lock."""
    senders = {pid for name, pid in node.pids().items() if name.startswith("sender")}
    while True:
        with node.locked():
            (pid,) = wait_until(lambda: proc.holders(node.turnstile), what="a process is next")
            if pid in senders:
                proc.send(pid, signal.SIGSTOP)
                wait_until(lambda pid=pid: proc.state(pid) == "T", what="the sender is stopped")
                return pid


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Two nodes that wait at the same time: how -> node, sink, seconds until the sender's death."""
    options = {"sensor": {"rate": 50}, "sink": {"batch_size": 5}}
    with contextlib.ExitStack() as stack:
        pairs, stops, ends = {}, {}, {}
        for stop in (stop_holder, stop_next):
            pair = running(tmp_path_factory.mktemp(stop.__name__), **options)
            pairs[stop] = node, _ = stack.enter_context(pair)
            node.await_delivered(20)
            stops[stop] = stop(node), time.monotonic()
        # A sender that nobody kills is for its own test to complain about.
        while len(ends) < 2 and time.monotonic() < stops[stop_next][1] + 4 * HOLD_SECONDS:
            for stop, (pid, since) in stops.items():
                if not proc.is_alive(pid):
                    ends.setdefault(stop, time.monotonic() - since)
            time.sleep(LOOK_SECONDS)
        yield {stop: (*pairs[stop], ends.get(stop)) for stop in stops}


@pytest.mark.parametrize("stop", [stop_holder, stop_next])
def test_a_sender_stopped_at_the_write_lock_costs_capture_no_tick(stop, stopped):
    """Ticks go on in memory until the supervisor kills whom they wait for, then all are stored."""
    node, sink, held = stopped[stop]
    print(f"capture waited for {held} s")
    assert held is not None, node.story()
    assert HOLD_SECONDS - 1 < held < HOLD_SECONDS + 3
    assert "process_killed name=sender-" in node.log()
    node.await_captured(node.captured() + 10)
    assert_nothing_lost(node, sink)
    assert_no_tick_missed(node)


@contextlib.contextmanager
def watching(node: Node) -> Iterator[list[float]]:
    """How many seconds behind the clock the newest committed reading is, at every look."""
    lags: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            lags.append(time.time() - node.one(NEWEST) / 1e6)

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield lags
    finally:
        over.set()
        watch.join()


def test_killing_senders_while_the_sink_hangs_never_delays_capture(tmp_path):
    with running(tmp_path, sensor={"rate": 50}, process=QUICK_END) as (node, sink):
        # At its stop they still wait for the sink.
        node.may_die = {"sender-1", "sender-2", "sender-3", "retrier"}
        sink.behave(hang(store="no"))
        await_hanging(sink, 3)
        killed = 0
        with watching(node) as lags:
            end = time.monotonic() + 3
            while time.monotonic() < end:
                for name, pid in node.pids().items():
                    if name.startswith(("sender", "retrier")):
                        with contextlib.suppress(ProcessLookupError):
                            proc.send(pid, signal.SIGKILL)
                            killed += 1
                time.sleep(0.1)
        print(f"{killed} kills; latest reading {max(lags):.3f} s, of {len(lags)} looks")
        assert killed >= 4
        assert max(lags) < LATEST_SECONDS
        node.stop()
        assert_no_tick_missed(node)
        assert node.run("audit").returncode == 0
