"""reload: a good file costs capture a short, recorded gap; a bad one changes nothing."""

import itertools
import os
import signal

from crash.node import Node, assert_nothing_lost, assert_on_grid, await_hanging, running
from sinks import hang, ok
from waiting import wait_until

GAP_SECONDS = 1.0


def gaps(node: Node) -> list[float]:
    """The seconds between one reading and the next."""
    return [(after - before) / 1e6 for before, after in itertools.pairwise(node.times_us())]


def senders(node: Node) -> int:
    return sum(name.startswith("sender") for name in node.pids())


def test_a_changed_rate_and_pool_take_effect_and_the_gap_is_recorded(tmp_path):
    with running(tmp_path, sensor={"rate": 100}, process={"senders": 1}) as (node, sink):
        before = node.await_captured(20)
        old = node.pids()
        node.configure(sensor={"rate": 200}, process={"senders": 3})
        assert node.run("reload").stdout == "reloaded\n"
        new = node.pids()
        assert new["supervisor"] == old["supervisor"]
        assert not set(new.values()) & set(old.values()) - {old["supervisor"]}
        assert senders(node) == 3
        node.await_captured(before + 200)
        node.configure(process={"senders": 1})
        node.run("reload")
        assert senders(node) == 1
        assert_nothing_lost(node, sink)
        # Two reloads, two gaps; the rest is on the grid of one rate, then of the other. A gap need
        # not be longer than the first rate's period.
        times, lengths = node.times_us(), gaps(node)
        quick = next(number for number, length in enumerate(lengths) if length < 0.0075)
        first = quick - 1
        second = max(range(quick, len(lengths)), key=lengths.__getitem__)
        assert_on_grid(times[: first + 1], 100)
        assert_on_grid(times[first + 1 : second + 1], 200)
        assert_on_grid(times[second + 1 :], 200)
        print("gaps", gaps(node)[first], gaps(node)[second])
        assert max(gaps(node)) < GAP_SECONDS
        missed = sum(gap * 200 - 1 for gap in (gaps(node)[first], gaps(node)[second]))
        assert abs(node.dropped() - missed) <= 2
        assert {event["detail"] for event in node.events("dropped")} == {"not running"}
        (rates, pools) = (event["detail"] for event in node.events("configuration changed"))
        assert rates == "[process] senders, [sensor:temperature] rate"
        assert pools == "[process] senders"


def test_a_reload_does_not_let_capture_wait_for_a_request_that_hangs(tmp_path):
    with running(tmp_path, process={"senders": 1, "stop_timeout": "60s"}) as (node, sink):
        sink.behave(hang(store="before"))
        await_hanging(sink)
        old = node.pids()
        with node.background("reload") as reloading:
            generator = node.await_running("generator", instead_of=old["generator"])
            node.await_captured(node.captured() + 10)
            assert node.pids()["generator"] == generator
            assert reloading.poll() is None
            sink.behave(ok())
            sink.release()
            said, _ = reloading.communicate(timeout=60)
        assert (reloading.returncode, said) == (0, "reloaded\n")
        assert max(gaps(node)) < GAP_SECONDS
        assert sink.repeated_ids() == set()
        assert_nothing_lost(node, sink)


def test_a_bad_file_changes_nothing_and_says_what_is_wrong(tmp_path):
    with running(tmp_path) as (node, sink):
        pids = node.pids()
        node.configure(sensor={"rate": "often"})
        wrong = "[sensor:temperature] rate = 'often'"
        assert wrong in node.run("reload", status=78).stderr
        assert node.pids() == pids
        # Whoever asks the supervisor itself, as systemd may, gets the same.
        os.kill(pids["supervisor"], signal.SIGHUP)
        wait_until(lambda: wrong in node.report()["problem"], what="the reload is refused")
        assert "reload_refused" in node.log()
        assert node.pids() == pids
        node.await_captured(node.captured() + 20)
        assert_on_grid(node.times_us(), 20)
        node.configure(sensor={"rate": 20})
        assert wrong in node.status()["reload_problem"]
        node.run("reload")
        assert node.status()["reload_problem"] == ""
        assert_nothing_lost(node, sink)
