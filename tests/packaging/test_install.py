"""Installing on a clean Debian: what is there, who may do what, and that nothing runs unasked."""

import re
import subprocess
import time
from pathlib import Path

import pytest
from box import SINK_DATABASE, Box, box
from waiting import wait_until

START_SECONDS = 10.0
CONFIG = "/etc/sensor-node/config.ini"
SIMULATED = "/etc/sensor-node/config.d/10-simulated.ini"
DOCUMENTED = ["man1/sensor-node-ctl.1.gz", "man5/sensor-node.ini.5.gz", "man7/sensor-node.7.gz"]
HOST_METRICS = ("cpu", "memory", "disk")


def test_a_fresh_install_neither_starts_nor_enables_and_says_how_to_start(deb: Path) -> None:
    with box("fresh") as fresh:
        said = fresh.install(deb)
        own = [line for line in said.stdout.splitlines() if line.startswith("sensor-node:")]
        assert len(own) == 1 and "sensor-node-ctl start" in own[0], said.stdout
        assert "WARNING" not in (said.stdout + said.stderr).upper()
        assert fresh.state() == "inactive"
        assert fresh.run("systemctl is-enabled sensor-node", check=False).stdout == "disabled\n"
        assert fresh.run("pgrep -u sensor-node", check=False).stdout == ""
        assert fresh.run("ls /var/lib | grep sensor", check=False).stdout == ""


def test_files_belong_to_root_and_only_the_group_reads_the_configuration(installed: Box) -> None:
    assert installed.run(["stat", "-c", "%a %U:%G", CONFIG]).stdout == "640 root:sensor-node\n"
    listed = installed.run("dpkg-query -W -f='${Conffiles}' sensor-node").stdout.split()
    assert sorted(word for word in listed if word.startswith("/")) == [SIMULATED, CONFIG]
    loose = (
        "dpkg -L sensor-node | xargs stat -c '%A %U %n' | grep -v '^.....-..-. root' | grep -v '^l'"
    )
    assert installed.run(loose, check=False).stdout == ""
    assert installed.run("dpkg --verify sensor-node").stdout == ""
    owner = installed.run("getent passwd sensor-node").stdout.split(":")
    assert int(owner[2]) < 1000 and owner[6].strip() == "/usr/sbin/nologin"


def test_a_simulated_sensor_that_was_deleted_does_not_come_back(installed: Box, deb: Path) -> None:
    installed.run(f"rm {SIMULATED}")
    installed.run(f"dpkg --install /root/{deb.name}")
    installed.configure("[sensor:room]\n")
    told = installed.ctl("check", "--print").stdout
    assert set(re.findall(r"\[sensor:(\w+)\]", told)) == {"room"}


def test_manuals_completion_and_examples_are_there(installed: Box) -> None:
    files = installed.run("dpkg -L sensor-node").stdout
    for name in DOCUMENTED:
        assert f"/usr/share/man/{name}\n" in files
    completion = "/usr/share/bash-completion/completions/sensor-node-ctl"
    assert f"{completion}\n" in files
    offered = installed.run(
        ["bash", "-c", f". {completion} && echo ${{_sensor_node_ctl_values[messages:--status]}}"]
    )
    taken = re.search(r"--status \{([A-Z_,]+)\}", installed.ctl("messages", "--help").stdout)
    assert taken and offered.stdout.split() == taken[1].split(",")
    assert files.count("/usr/share/doc/sensor-node/examples/") >= 3


def test_start_is_active_in_time_and_says_that_a_reboot_would_not_start_it(installed: Box) -> None:
    began = time.monotonic()
    said = installed.ctl("start").stdout
    took = time.monotonic() - began
    print(f"start: {took:.2f} s")
    assert installed.state() == "active"
    assert took < START_SECONDS
    assert "systemctl enable sensor-node" in said
    # Its own account, not root's.
    user = f"stat -c %U /proc/{installed.main_pid()} /var/lib/sensor-node /run/sensor-node"
    assert installed.run(user).stdout.split() == ["sensor-node"] * 3
    installed.run("systemctl enable --quiet sensor-node")
    assert "enable" not in installed.ctl("restart").stdout


def test_root_and_the_group_see_the_status_and_others_are_told_why_not(running: Box) -> None:
    running.run("useradd ann && useradd --groups sensor-node bob")
    running.ctl("status")
    assert "state      running" in running.ctl("status", user="bob").stdout
    refused = running.ctl("status", user="ann", status=4)
    lines = refused.stderr.splitlines()
    assert lines and all(re.match("sensor-node-ctl: .*(root|group)", line) for line in lines)
    for command in ("audit", "history", "messages", "check"):
        running.ctl(command, user="bob")


@pytest.mark.parametrize("user", ["ann", "bob"])
def test_whoever_is_not_root_is_told_what_to_do_and_changes_nothing(
    running: Box, user: str
) -> None:
    running.run("useradd ann && useradd --groups sensor-node bob")
    before = running.main_pid()
    for command in ("stop", "restart", "reload"):
        _assert_told_to_be_root(running, command, user)
    assert running.main_pid() == before
    running.ctl("stop")
    _assert_told_to_be_root(running, "start", user)
    assert running.state() == "inactive"


def _assert_told_to_be_root(node: Box, command: str, user: str) -> None:
    refused = node.ctl(command, user=user, status=None)
    assert refused.returncode != 0, refused
    lines = refused.stderr.splitlines()
    assert lines and all(re.match("sensor-node-ctl: .*root", line) for line in lines), refused


def test_check_as_root_tries_what_the_service_must_open_and_says_what_mends_it(
    installed: Box,
) -> None:
    token = "/etc/sensor-node/token"
    installed.run(f"echo s3cret >{token} && chmod 600 {token}")
    installed.configure(f"[sink]\ntoken_file = {token}\n")
    said = installed.ctl("check", status=1).stderr
    complaint, _, mend = said.rstrip("\n").partition("cannot read it: ")
    assert complaint == f"sensor-node-ctl: {token}: sensor-node ", said
    installed.run(mend)
    assert "good, 1 sensor" in installed.ctl("check").stdout
    installed.configure("[sink]\ntoken_file = /root/token\n")
    installed.run(f"cp {token} /root && chmod 700 /root")
    said = installed.ctl("check", status=1).stderr
    complaint, _, mend = said.rstrip("\n").partition("cannot enter /root: ")
    assert complaint == "sensor-node-ctl: /root/token: sensor-node ", said
    installed.run(mend.removesuffix(", and name that one"))
    assert installed.run(["stat", "-c", "%a %G", token]).stdout == "640 sensor-node\n"
    installed.run("useradd bob && usermod --append --groups sensor-node bob")
    assert "is tried by root" in installed.ctl("check", user="bob").stdout


def test_readings_arrive_at_the_sink(running: Box) -> None:
    running.await_captured(40)
    assert running.assert_nothing_lost() >= 40


def test_a_second_node_has_its_own_file_database_and_unit(running: Box) -> None:
    sink = running.run(
        "systemd-run --quiet --unit=sink2 sensor-node-ctl sink --port 8471 --db /s2.db"
    )
    assert sink.returncode == 0
    file, unit = "/etc/sensor-node/attic.ini", "sensor-node@attic"
    url = "[sink]\nurl = http://127.0.0.1:8471/telemetry\n"
    running.write(file, f"[node]\nid = attic\n[sensor:damp]\nrate = 10\n{url}")
    running.run(f"systemctl start {unit}")
    running.await_running(unit)
    rows = "SELECT count(*), min(node), max(node) FROM message"
    wait_until(lambda: running.query(rows, "/s2.db")[0][0] > 5, what="readings at the second sink")
    assert running.query(rows, "/s2.db")[0][1:] == ["attic", "attic"]
    assert running.status(file)["storage"]["path"] == "/var/lib/sensor-node-attic/telemetry.db"
    running.ctl("-c", file, "stop")
    assert (running.state(unit), running.state()) == ("inactive", "active")
    running.ctl("-c", file, "start")
    assert running.state(unit) == "active"
    running.run("systemctl stop sensor-node@attic")
    running.await_delivered()
    assert running.query(rows, SINK_DATABASE)[0][1:] == ["edge-01", "edge-01"]


def test_the_host_source_works_inside_the_sandbox(installed: Box) -> None:
    sensors = [f"[sensor:{m}]\nsource = host\nmetric = {m}\nrate = 5\n" for m in HOST_METRICS]
    installed.configure("".join(sensors))
    installed.ctl("start")
    installed.await_captured(20)
    values = dict(installed.query("SELECT name, max(value) FROM message GROUP BY name"))
    for metric in HOST_METRICS:
        assert 0 <= values[metric] <= 100, values
    assert values["memory"] > 0 and values["disk"] > 0, values


def test_it_asks_for_debians_own_libraries_with_their_least_versions(deb: Path) -> None:
    """That apt finds them in the archive is what piuparts shows."""
    wanted = subprocess.run(
        ["dpkg-deb", "-f", str(deb), "Depends"], capture_output=True, text=True, check=True
    ).stdout
    for name in ("python3-requests", "python3-urllib3", "python3-backoff", "python3-psutil"):
        assert f"{name} (>= " in wanted, wanted
