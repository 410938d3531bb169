"""P1, P3, P7: one sensor never stops another, none falls silent unseen, a tick may bring many."""

import shutil
import subprocess

import pytest
from checker import judge, unaccounted_ticks
from crash.node import Node, assert_nothing_lost, running
from faults.dead_mount import dead_mount, why_not
from sinks import SinkProcess
from waiting import wait_until

MOCK = {"source": "mock", "rate": 20}
CPU = {"source": "host", "metric": "cpu", "rate": 5}
READINGS = "SELECT count(*) FROM message WHERE name = ?"
DROPPED = "SELECT coalesce(max(n), 0) FROM dropped WHERE reason = ?"


def readings(node, name):
    return int(node.one(READINGS, name))


def await_more(node, *names, count=20):
    """Each of the sensors has given so many readings more."""
    before = {name: readings(node, name) for name in names}
    wait_until(
        lambda: all(readings(node, name) >= before[name] + count for name in names),
        what=f"readings of {names}",
        detail=node.log,
    )


def problems(node):
    return {problem["what"]: problem["hint"] for problem in node.status()["problems"]}


def await_problem(node, begin, *, gone=False):
    def is_told():
        return any(what.startswith(begin) for what in problems(node)) != gone

    wait_until(is_told, what=f"{begin!r} is {'gone' if gone else 'told'}", detail=node.log)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_sensor_that_hangs_stops_no_other_and_its_ticks_are_counted_while_it_does(tmp_path):
    place = tmp_path / "mount"
    place.mkdir()
    disk = {"source": "host", "metric": "disk", "path": place, "rate": 10}
    with running(tmp_path, sensor=MOCK, **{"sensor:cpu": CPU, "sensor:disk": disk}) as (node, sink):
        await_more(node, "temperature", "cpu", "disk")
        generator = node.pids()["generator"]
        with dead_mount(place):
            late = "sensor disk late"
            wait_until(lambda: node.one(DROPPED, late) > 20, what="they are counted")
            before = node.one(DROPPED, late)
            await_more(node, "temperature", "cpu")
            await_problem(node, "no reading of disk for 1")
            assert node.one(DROPPED, late) > before + 20
            silent = {one["name"] for one in node.status()["sensors"] if one["silent"]}
            assert silent == {"disk"}
        await_problem(node, "no reading of disk", gone=True)
        await_more(node, "disk")
        assert node.pids()["generator"] == generator
        rates = {"temperature": 20, "cpu": 5, "disk": 10}
        assert abs(unaccounted_ticks(node.database, rates)) <= 3 * len(rates)
        assert all(one["unaccounted"] == 0 for one in node.status()["sensors"])
        with dead_mount(place):
            before = node.one(DROPPED, late)
            wait_until(lambda: node.one(DROPPED, late) > before + 5, what="it hangs again")
            node.stop()
        assert node.rows("SELECT kind FROM event ORDER BY id DESC LIMIT 1") == [("stopped",)]
        node.start()
        assert_nothing_lost(node, sink)
        judge(node.database, sink.database).assert_good()


def has_a_namespace():
    command = ["unshare", "--mount", "mount", "--bind", "/dev/null", "/proc/meminfo"]
    tools = shutil.which("unshare") and shutil.which("nsenter")
    return bool(tools) and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not has_a_namespace(), reason="needs root, unshare(1) and nsenter(1)")
def test_an_error_that_nobody_foresaw_costs_its_ticks_and_is_told_while_it_lasts(tmp_path):
    """/proc/meminfo is blank for a while, as of a container whose lxcfs ends: KeyError."""
    memory = {"source": "host", "metric": "memory", "rate": 10}
    sections = {"sensor": MOCK, "sensor:cpu": CPU, "sensor:memory": memory}
    with (
        SinkProcess(tmp_path) as sink,
        Node(tmp_path, prefix=("unshare", "--mount"), sink={"url": sink.url}, **sections) as node,
    ):
        node.start()
        await_more(node, "memory")
        generator = node.pids()["generator"]
        inside = ["nsenter", "--mount", "--target", str(generator)]
        blank = ["mount", "--bind", "/dev/null", "/proc/meminfo"]
        subprocess.run([*inside, *blank], check=True)
        failed = "sensor memory failed"
        await_problem(node, f"{failed}: KeyError")
        [hint] = [hint for what, hint in problems(node).items() if what.startswith(failed)]
        assert hint == "this is a fault of the program, see the log"
        await_more(node, "temperature", "cpu")
        assert node.log().count("sensor_fault memory: KeyError") == 1
        subprocess.run([*inside, "umount", "/proc/meminfo"], check=True)
        await_more(node, "memory")
        await_problem(node, f"{failed}: KeyError", gone=True)
        assert node.pids()["generator"] == generator
        [found] = [one for one in node.status()["sensors"] if one["name"] == "memory"]
        assert found["error"].startswith("KeyError")
        rates = {"temperature": 20, "cpu": 5, "memory": 10}
        assert abs(unaccounted_ticks(node.database, rates)) <= 3 * len(rates)
        assert_nothing_lost(node, sink)
        assert node.one("SELECT failures FROM sensor WHERE name = 'memory'") == node.one(
            DROPPED, failed
        )
        judge(node.database, sink.database).assert_good()


def test_a_sensor_that_failed_last_is_a_problem_until_it_is_asked_again(tmp_path):
    """Once an hour: what was dropped is long ago by the time that anybody looks."""
    flag = tmp_path / "flag"
    hourly = {"source": "command", "rate": "1/h", "command": f"cat {flag}"}
    with running(tmp_path, sensor=MOCK, **{"sensor:hourly": hourly}) as (node, sink):
        await_problem(node, "sensor hourly failed: the command ended with status 1")
        with node.writing() as connection:
            connection.execute("UPDATE event SET at = at - 60, until = until - 60")
        assert node.status()["dropping"] == []
        await_problem(node, "sensor hourly failed: the command ended with status 1")
        await_more(node, "temperature")
        flag.write_text("21.5\n")
        node.run("reload")
        await_problem(node, "sensor hourly failed", gone=True)
        wait_until(lambda: readings(node, "hourly") == 1, what="its reading")
        assert_nothing_lost(node, sink)


def test_a_tick_of_2500_readings_is_stored_whole_each_time(tmp_path):
    many = {"source": "command", "rate": 2, "command": "seq 1 2500"}
    with running(tmp_path, sensor=MOCK, **{"sensor:many": many}) as (node, sink):
        wait_until(lambda: readings(node, "many") >= 5 * 2500, what="some ticks of it")
        assert node.dropped() == 0
        node.stop()
        assert node.one("SELECT readings FROM sensor WHERE name = 'many'") == readings(node, "many")
        node.start()
        assert_nothing_lost(node, sink)
