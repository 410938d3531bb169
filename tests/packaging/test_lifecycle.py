"""Killed processes come back, a broken configuration stops the service and says why."""

import time

import pytest
from box import Box
from waiting import wait_until

# 2.5 s where nothing else runs: what it took is printed. A busy machine takes longer.
BACK_SECONDS = 15.0
# Restart=always would have tried again, RestartSec after the failure.
NO_RESTART_SECONDS = 5.0
# Five periods of a watchdog that is set to be quick.
FULL_SECONDS = 15.0
CHILDREN = ["generator", "sender-1", "sender-2", "retrier", "housekeeper"]
CONFIG = "/etc/sensor-node/config.ini"
MISTAKES = {
    "[sink]\nurl = ftp://sink\n[retry]\nmax_delay = never\n": 2,
    "[sensor:a]\nsource = hots\n": 1,
    "this is no configuration\n": 1,
}


@pytest.mark.parametrize("name", [*CHILDREN, "supervisor", "all"])
def test_killed_processes_are_back_in_time_and_nothing_is_lost(running: Box, name: str) -> None:
    running.await_captured(20)
    before = running.pids()
    assert set(before) == {"supervisor", *CHILDREN}
    killed = ["supervisor", *CHILDREN] if name == "all" else [name]
    began = time.monotonic()
    running.kill(*(before[one] for one in killed))

    def back() -> bool:
        pids = running.pids() if running.state() == "active" else {}
        return set(pids) == set(before) and all(pids[one] != before[one] for one in killed)

    wait_until(back, what=f"{name}: back")
    took = time.monotonic() - began
    if "supervisor" in killed:
        # More exact than our looks at it.
        took = int(running.show("ActiveEnterTimestampMonotonic")) / 1e6 - began
    print(f"kill -9 of {name}: back after {took:.2f} s")
    assert took < BACK_SECONDS
    restarts = 1 if "supervisor" in killed else 0
    assert running.show("NRestarts") == str(restarts)
    running.assert_nothing_lost()


@pytest.mark.parametrize("text", MISTAKES)
def test_a_broken_configuration_fails_at_once_with_its_reasons(installed: Box, text: str) -> None:
    installed.write(CONFIG, text)
    reasons = installed.ctl("check", status=78).stderr.splitlines()
    assert len(reasons) == MISTAKES[text]
    refused = installed.ctl("start", status=None)
    assert refused.returncode != 0
    installed.run("systemctl start sensor-node", check=False)
    began = time.monotonic()
    wait_until(lambda: installed.state() == "failed", what="it has failed", detail=installed.story)
    while time.monotonic() - began < NO_RESTART_SECONDS:
        assert installed.state() == "failed", installed.story()
        time.sleep(0.5)
    assert installed.show("NRestarts") == "0"
    assert installed.show("ExecMainStatus") == "78"
    said = installed.run("systemctl status --no-pager sensor-node", check=False).stdout
    for reason in reasons:
        assert reason in refused.stderr
        assert reason.removeprefix("sensor-node-ctl: ") in said
    journal = installed.journal().splitlines()
    own = [line for line in journal if CONFIG in line and "sensor-node-ctl: " in line]
    attempts = journal.count("Starting sensor-node.service - Sensor Node telemetry agent...")
    assert len(own) == attempts * MISTAKES[text]
    assert "Traceback" not in "\n".join(journal)


def test_a_mended_configuration_starts_again(installed: Box) -> None:
    good = installed.run(["cat", CONFIG]).stdout
    installed.write(CONFIG, "[sink]\nurl = ftp://sink\n")
    assert installed.ctl("start", status=None).returncode != 0
    installed.write(CONFIG, good)
    installed.ctl("start")
    installed.await_captured()


def test_reload_takes_the_new_configuration_and_refuses_a_bad_one(running: Box) -> None:
    supervisor = running.main_pid()
    running.configure("[sensor:temperature]\nrate = 20\n[sensor:humidity]\nrate = 20\n")
    running.ctl("reload")
    captured = "SELECT count(*) FROM message WHERE name = 'humidity'"
    wait_until(lambda: running.query(captured)[0][0] > 0, what="the new sensor is captured")
    running.configure("[sensor:humidity]\nrate = fast\n")
    refused = running.ctl("reload", status=None)
    assert refused.returncode != 0 and "rate = 'fast'" in refused.stderr, refused
    assert running.main_pid() == supervisor
    running.await_captured()
    running.configure("")
    assert running.assert_nothing_lost() > 0


def test_stop_is_orderly_and_start_again_goes_on_where_it_was(running: Box) -> None:
    running.await_captured(20)
    running.ctl("stop")
    assert running.state() == "inactive"
    assert running.show("Result") == "success"
    running.ctl("status", status=3)
    assert [event["kind"] for event in running.history()][-1] == "stopped"
    assert running.history("unclean stop") == []
    running.assert_nothing_lost()


def test_a_process_that_hangs_is_replaced_and_systemd_leaves_the_rest_alone(running: Box) -> None:
    """The watchdog of the unit is fed although one of its processes is stopped for a while."""
    before = running.pids()
    running.run(f"kill -STOP {before['sender-1']}")
    running.await_captured(40)
    running.run(f"kill -CONT {before['sender-1']}")
    assert running.main_pid() == before["supervisor"]
    assert running.show("NRestarts") == "0"
    assert int(running.show("WatchdogTimestampMonotonic")) > 0


def test_a_full_disk_is_no_reason_for_systemd_to_start_it_anew(installed: Box) -> None:
    """The watchdog is fed by processes that move, whether or not they can commit."""
    drop_in = "/etc/systemd/system/sensor-node.service.d/watchdog.conf"
    installed.write(drop_in, f"[Service]\nWatchdogSec={FULL_SECONDS / 5:g}s\n")
    installed.run("systemctl daemon-reload && mkdir -p /var/lib/sensor-node")
    installed.run("mount -t tmpfs -o size=8m tmpfs /var/lib/sensor-node")
    installed.configure("[sensor:temperature]\nrate = 20\n[storage]\nmin_free = 0\n")
    installed.start_sink()
    installed.ctl("start")
    installed.await_captured(20)
    before = installed.pids()
    installed.run("dd if=/dev/zero of=/var/lib/sensor-node/ballast bs=64k 2>&1", check=False)

    def said() -> str:
        return " ".join(problem["what"] for problem in installed.status()["problems"])

    wait_until(lambda: "disk full" in said(), what="the disk is full", detail=installed.story)
    time.sleep(FULL_SECONDS)
    assert "disk full" in said()
    assert installed.pids() == before
    assert (installed.state(), installed.show("NRestarts")) == ("active", "0")
    installed.run("rm /var/lib/sensor-node/ballast")
    wait_until(lambda: "disk full" not in said(), what="it is used again", detail=installed.story)
    installed.await_captured(20)
    installed.configure("[sensor:temperature]\nrate = 1/h\n")
    installed.ctl("restart")
    installed.await_delivered()
    installed.ctl("audit")
    print("dropped meanwhile:", [(one["n"], one["detail"]) for one in installed.history("dropped")])
