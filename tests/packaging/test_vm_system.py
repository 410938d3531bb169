"""Under a kernel and a systemd of its own: starting, being killed, out of memory, out of time.

All tests share one machine, in this order; each begins with the configuration that it wants.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import DROP_IN, SERVICE
from report import report
from vmbox import CGROUP, CHILDREN, VmBox, booted
from waiting import wait_until

NODE = "[sensor:temperature]\nrate = {rate}\n[retry]\nmax_delay = 2s\n"
HOST_SENSOR = "[sensor:{metric}]\nsource = host\nmetric = {metric}\nrate = 2\n"
# The promise is 10 s, on hardware.
START_SECONDS = 60.0
EXAMPLE = "/usr/share/doc/sensor-node/examples/only-the-sink.conf"
ADDRESSES = f"/etc/systemd/system/{SERVICE}.service.d/only-the-sink.conf"
OOM_STEP_BYTES = 1024 * 1024
OOM_STEPS = 40
VICTIM = re.compile(r"Memory cgroup out of memory: Killed process (\d+) .*oom_score_adj:(\d+)")
NETWORK_OOM_SCORE = 500
# A loop that does not wait takes all of a CPU.
LOOK_SECONDS = 8.0
BUSY_SECONDS = 4.0
FOOTPRINT_SECONDS = 20.0
MOST_PSS_MIB = 110.0
SMOKE = Path(__file__).parents[2] / "packaging/debian/tests/smoke"


@pytest.fixture(scope="module")
def box(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmBox]:
    with booted(deb, tmp_path_factory.mktemp("vm")) as box:
        report(f"boot to a shell: {box.machine.boot_seconds:.1f} s (emulated)")
        box.start_sink()
        yield box


def running_with(box: VmBox, text: str) -> dict[str, int]:
    """The pids of all, RUNNING with this configuration."""
    if box.run(["cat", DROP_IN], check=False).stdout != text:
        box.configure(text)
        box.run(f"systemctl restart {SERVICE}")
    box.await_replaced({})
    return box.pids()


def audit(box: VmBox) -> None:
    said = box.ctl("audit", status=None)
    assert said.returncode == 0, said.stdout


def test_an_installed_node_waits_to_be_started_and_is_up_at_once(box: VmBox) -> None:
    assert box.state() == "inactive"
    assert box.show("UnitFileState") == "disabled"
    began = time.monotonic()
    box.ctl("start")
    wait_until(lambda: box.state() == "active", START_SECONDS, "it is active", box.story)
    report(f"start to active: {time.monotonic() - began:.1f} s (emulated)")
    box.ctl("status", status=0)
    box.await_delivered()
    assert box.query("SELECT count(*) FROM message", "/var/lib/sink.db")[0][0] > 0


def test_it_needs_little_memory_and_cpu_at_one_reading_a_second(box: VmBox) -> None:
    running_with(box, NODE.format(rate=1))
    box.await_captured(10)
    before, began = box.usage(), time.monotonic()
    box.run(f"sleep {FOOTPRINT_SECONDS}")
    after, seconds = box.usage(), time.monotonic() - began
    assert after.keys() == before.keys() == {"supervisor", *CHILDREN}
    total_pss = sum(usage.pss_mib for usage in after.values())
    total_cpu = 0.0
    for name, usage in after.items():
        percent = 100 * (usage.cpu_seconds - before[name].cpu_seconds) / seconds
        total_cpu += percent
        report(f"at 1 reading/s: {name}: PSS {usage.pss_mib:.1f} MiB, CPU {percent:.1f}%")
    report(f"at 1 reading/s: all: PSS {total_pss:.1f} MiB, CPU {total_cpu:.1f}% (emulated)")
    assert total_pss < MOST_PSS_MIB


def test_the_host_source_works_inside_the_sandbox(box: VmBox) -> None:
    metrics = ("cpu", "memory", "disk")
    sensors = "".join(HOST_SENSOR.format(metric=metric) for metric in metrics)
    running_with(box, NODE.format(rate=1) + sensors)
    last = box.captured()
    found = f"SELECT name, min(value), max(value) FROM message WHERE id > {last} GROUP BY name"

    def values() -> dict[str, tuple[float, float]]:
        return {name: (low, high) for name, low, high in box.query(found)}

    wait_until(lambda: set(metrics) <= values().keys(), 60, "all metrics give values", box.story)
    box.await_captured(10)
    told = values()
    for name in metrics:
        low, high = told[name]
        report(f"host source in the sandbox: {name} {low:.1f} to {high:.1f}%")
        assert 0 <= low <= high <= 100
    # What the kernel tells root, who is in no sandbox.
    free = box.run("awk '/^MemTotal/ {t=$2} /^MemAvailable/ {a=$2} END {print a/t}' /proc/meminfo")
    assert told["memory"][0] == pytest.approx(100 * (1 - float(free.stdout)), abs=15)
    assert told["cpu"][1] > 0


@pytest.mark.parametrize("victim", [*CHILDREN, "supervisor", "all"])
def test_what_is_killed_comes_back_and_nothing_is_lost(box: VmBox, victim: str) -> None:
    pids = running_with(box, NODE.format(rate=20))
    box.await_captured()
    whole = victim in ("supervisor", "all")
    began = time.monotonic()
    box.kill(*(pids.values() if victim == "all" else [pids[victim]]))
    box.await_replaced(pids, *(pids if whole else [victim]))
    seconds = time.monotonic() - began
    report(f"kill -9 of {victim}: all running again after {seconds:.1f} s (emulated)")
    box.await_captured()
    if not whole:
        now = box.pids()
        assert [name for name in pids if now[name] != pids[name]] == [victim], box.journal()
    audit(box)
    if victim == "all":
        assert box.assert_nothing_lost() > 0


def test_when_memory_is_short_the_kernel_kills_a_sender_and_capture_misses_no_tick(
    box: VmBox,
) -> None:
    pids = running_with(box, NODE.format(rate=20))
    box.await_captured()
    first, restarts = box.captured(), box.show("NRestarts")
    box.run("dmesg --clear")
    killed = starve(box)
    box.await_replaced(pids, *[name for name, pid in pids.items() if pid in killed])
    box.await_captured(20)
    now = box.pids()
    network = {pids[name] for name in ("sender-1", "sender-2", "retrier")}
    report(f"out of memory: the kernel killed {[n for n, pid in pids.items() if pid in killed]}")
    assert killed.keys() & network
    assert set(killed.values()) == {NETWORK_OOM_SCORE}
    for name in ("supervisor", "generator", "housekeeper"):
        assert now[name] == pids[name], f"{name} was replaced\n{box.journal()}"
    assert (box.state(), box.show("NRestarts")) == ("active", restarts)
    assert_no_tick_missed(box, first, 20)
    box.await_delivered()
    audit(box)


def starve(box: VmBox) -> dict[int, int]:
    """Lower the service's limit until the kernel kills; pids and their oom_score_adj.

    Below what the processes have, the kernel kills the first of its choice and has enough.
    """
    anonymous = box.run(f"awk '/^anon / {{print $2}}' {CGROUP}/memory.stat").stdout
    limit, killed = int(anonymous), {}
    try:
        for _ in range(OOM_STEPS):
            limit -= OOM_STEP_BYTES
            box.run(f"systemctl set-property --runtime {SERVICE} MemoryMax={limit}")
            killed = {
                int(pid): int(score) for pid, score in VICTIM.findall(box.run("dmesg").stdout)
            }
            if killed:
                break
    finally:
        box.run(f"systemctl set-property --runtime {SERVICE} MemoryMax=infinity")
    assert killed, f"nothing was killed at {limit} bytes of {anonymous}"
    return killed


def assert_no_tick_missed(box: VmBox, first: int, rate: float) -> None:
    """From that id on, each reading is a period after the one before; nothing was dropped."""
    (rows,) = box.query(
        "SELECT count(*), max(id) - min(id) + 1, max(timestamp_us) - min(timestamp_us),"
        " (SELECT coalesce(max(step), 0) FROM (SELECT timestamp_us - lag(timestamp_us)"
        f"   OVER (ORDER BY id) AS step FROM message WHERE id >= {first})),"
        " (SELECT coalesce(sum(n), 0) FROM event WHERE kind = 'dropped'"
        f"   AND last >= (SELECT timestamp_us FROM message WHERE id = {first}))"
        f" FROM message WHERE id >= {first}"
    )
    count, ids, microseconds, longest_step, dropped = rows
    ticks = microseconds * rate / 1e6
    report(
        f"out of memory: {ticks:.2f} ticks, {count - 1} captured after the first, {dropped} lost"
    )
    assert count == ids
    assert round(ticks) == count - 1
    assert longest_step < 1.5e6 / rate
    assert dropped == 0


@pytest.mark.parametrize("moment", ["2020-01-01 00:00:00", "2036-12-31 00:00:00"])
def test_a_clock_that_jumps_stops_neither_capture_nor_retries(box: VmBox, moment: str) -> None:
    running_with(box, NODE.format(rate=5))
    box.await_captured()
    box.stop_sink()
    await_sink(box, "DOWN")
    # A retry is planned by the old clock.
    box.run(f"date -s '{moment}'")
    captured, began = box.captured(), time.monotonic()
    look_for_busy_loops(box, f"clock at {moment[:4]}, sink down")
    more, seconds = box.captured() - captured, time.monotonic() - began
    report(f"clock at {moment[:4]}: {more} captured in {seconds:.1f} s at 5/s")
    assert more >= 0.8 * 5 * seconds
    began = time.monotonic()
    box.start_sink()
    await_sink(box, "UP")
    box.await_delivered()
    report(f"clock at {moment[:4]}: all delivered {time.monotonic() - began:.1f} s after the sink")
    look_for_busy_loops(box, f"clock at {moment[:4]}, sink up")
    audit(box)


def await_sink(box: VmBox, state: str) -> None:
    query = "SELECT state FROM sink"
    wait_until(lambda: box.query(query) == [[state]], 60, f"the sink is {state}", box.story)


def look_for_busy_loops(box: VmBox, when: str) -> None:
    before = box.usage()
    box.run(f"sleep {LOOK_SECONDS}")
    after = box.usage()
    used = {name: after[name].cpu_seconds - before[name].cpu_seconds for name in before}
    told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in used.items())
    report(f"{when}: seconds of CPU in {LOOK_SECONDS:g} s (emulated): {told}")
    assert max(used.values()) < BUSY_SECONDS


def test_the_example_of_addresses_lets_the_node_talk_to_these_and_to_no_others(box: VmBox) -> None:
    running_with(box, NODE.format(rate=5))
    example = box.run(f"cat {EXAMPLE}").stdout
    closed = example.replace("IPAddressAllow=localhost\n", "")
    assert closed != example
    for text, state in ((closed, "DOWN"), (example, "UP")):
        box.write(ADDRESSES, text)
        box.run(f"systemctl daemon-reload && systemctl restart {SERVICE}")
        await_sink(box, state)
    box.await_delivered()
    box.run(f"rm {ADDRESSES} && systemctl daemon-reload && systemctl restart {SERVICE}")
    audit(box)


def test_the_smoke_test_of_autopkgtest_passes(box: VmBox) -> None:
    box.stop_sink()
    box.run(f"systemctl stop {SERVICE}; rm {DROP_IN}; mkdir /tmp/smoke")
    box.write("/tmp/smoke/test", SMOKE.read_text())
    said = box.run("AUTOPKGTEST_TMP=/tmp/smoke sh /tmp/smoke/test", timeout=300)
    assert "every reading is accounted for" in said.stdout
