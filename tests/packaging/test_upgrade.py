"""Upgrade, downgrade, remove, purge: what was captured stays, and what runs goes on."""

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import package
import pytest
import roots
from box import DATABASE, Box, box
from waiting import wait_until

BACKLOG = 100_000
DRAIN_SECONDS = 120.0
CONFIG = "/etc/sensor-node/config.ini"
OLD, HALF, STRICT, NEW, NEWEST = "0.0.9", "80.1", "80.2", "90.1", "90.2"
ROLES = ("generator", "sender-1", "sender-2", "retrier", "housekeeper")
CAPTURED = "SELECT max(id) FROM message"
# Ids are given in order, and batch ranges of them settled in nearly that.
DELIVERED = "SELECT coalesce(max(last_id), 0) FROM batch WHERE status = 'SENT'"
# An upgrade that stops half-way, such as at a question that nobody answers.
HALF_WAY_SECONDS = 60.0
# Half a second where nothing else runs: what it was is printed. A busy machine takes longer.
GAP_SECONDS = 10.0
LONGEST_GAP = """
SELECT max(gap) / 1e6 FROM
(SELECT timestamp_us - lag(timestamp_us) OVER (ORDER BY id) AS gap FROM message)
"""
UPGRADE_LOG = "/root/upgrade.log"
# What is alive of the service at that moment; in the maintainer scripts of the new package.
WITNESS = f"""
echo "$0 $1: $(systemctl is-active sensor-node) $(pgrep -c -u sensor-node)" \\
    | sed 's,.*/,,' >>{UPGRADE_LOG}
"""


@pytest.fixture(scope="session")
def old(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous version's package."""
    return package.variant(deb, tmp_path_factory.mktemp("old"), OLD)


@pytest.fixture(scope="session")
def new(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that notes what ran when its unpacking began and when it had ended."""

    def witness(tree: Path) -> None:
        for script in ("preinst", "postinst"):
            package.prepend(tree / "DEBIAN" / script, WITNESS)

    return package.variant(deb, tmp_path_factory.mktemp("new"), NEW, witness)


@pytest.fixture(scope="session")
def half(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version of which no part must be used: nobody has configured it yet."""

    def break_all(tree: Path) -> None:
        for module in (tree / package.MODULES).rglob("*.py"):
            module.write_text('raise SystemError("half an upgrade")\n')

    return package.variant(deb, tmp_path_factory.mktemp("half"), HALF, break_all)


@pytest.fixture(scope="session")
def strict(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version to which what the shipped configuration says is not enough."""

    def want_more(tree: Path) -> None:
        schema = tree / package.MODULES / "config" / "schema.py"
        before = schema.read_text()
        row = '"keep_sent", duration("0s", "3650d"), "24h"'
        assert row in before
        schema.write_text(before.replace(row, '"keep_sent", duration("48h", "3650d"), "72h"'))

    return package.variant(deb, tmp_path_factory.mktemp("strict"), STRICT, want_more)


@pytest.fixture(scope="session")
def newest(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version whose config.ini is another one."""

    def change(tree: Path) -> None:
        file = tree / "etc/sensor-node/config.ini"
        file.write_text(file.read_text() + "\n# Of the newest version.\n")

    return package.variant(deb, tmp_path_factory.mktemp("newest"), NEWEST, change)


@pytest.fixture
def before(old: Path) -> Iterator[Box]:
    """With the previous version, never started."""
    with box("before", old) as made:
        yield made


def test_an_upgrade_keeps_a_long_backlog_and_the_edits_and_runs_again(
    before: Box, new: Path
) -> None:
    before.run(f"sed -i 's/^id =.*/id = edge-77/' {CONFIG}")
    before.configure("[sensor:temperature]\nrate = 20000\n[storage]\nmin_free = 1MiB\n")
    before.ctl("start")
    wait_until(lambda: before.captured() >= BACKLOG, 120, "a backlog", before.story)
    before.configure("[sensor:temperature]\nrate = 10\n")
    before.ctl("reload")
    backlog = before.await_captured()
    pid = before.main_pid()

    before.install(new)
    assert before.state() == "active"
    assert before.main_pid() != pid
    witnessed = before.run(["cat", UPGRADE_LOG]).stdout.splitlines()
    print(witnessed)
    assert len(witnessed) == 2 and all(line.endswith("active 6") for line in witnessed)
    assert before.run("systemctl is-enabled sensor-node", check=False).stdout == "disabled\n"
    assert "id = edge-77" in before.run(["cat", CONFIG]).stdout
    assert before.run(["stat", "-c", "%a %U:%G", CONFIG]).stdout == "640 root:sensor-node\n"

    before.await_captured()
    gap = before.query(LONGEST_GAP)[0][0]
    print(f"backlog {backlog}; longest gap in capture {gap:.2f} s")
    assert gap < GAP_SECONDS
    assert before.history("unclean stop") == []
    before.start_sink()
    assert before.assert_nothing_lost(DRAIN_SECONDS) > BACKLOG


def test_an_upgrade_that_stops_half_way_stops_neither_capture_nor_delivery(
    before: Box, half: Path, new: Path
) -> None:
    before.start_sink()
    before.configure("[sensor:temperature]\nrate = 1000\n")
    before.ctl("start")
    before.await_captured(1000)
    supervisor = before.main_pid()
    before.container.copy_in(half)
    before.run(f"dpkg --unpack /root/{half.name}")
    assert before.run("dpkg-query -W -f '${Status}' sensor-node").stdout.endswith(" unpacked")

    kills, until = itertools.cycle(ROLES), time.monotonic() + HALF_WAY_SECONDS
    while time.monotonic() < until:
        role = next(kills)
        pid = _children(before)[role]
        before.run(f"kill -9 {pid}")
        wait_until(
            lambda role=role, pid=pid: _children(before).get(role, pid) != pid, what=f"{role}: back"
        )
        least = before.query(CAPTURED)[0][0] + 1000
        wait_until(lambda least=least: before.query(CAPTURED)[0][0] > least, what="capture")
        wait_until(lambda least=least: before.query(DELIVERED)[0][0] > least, what="delivery")
    assert before.main_pid() == supervisor
    before.install(new)
    assert before.state() == "active"
    assert before.main_pid() != supervisor
    assert before.history("unclean stop") == []
    assert before.assert_nothing_lost() > 0


def _children(node: Box) -> dict[str, int]:
    """Pids by name of those that run, where the command that would tell cannot be used."""
    report = json.loads(node.run(["cat", "/run/sensor-node/processes.json"]).stdout)
    return {
        child["name"]: child["pid"] for child in report["processes"] if child["state"] == "RUNNING"
    }


def test_an_upgrade_that_asks_and_gets_no_answer_leaves_the_old_version_running(
    before: Box, newest: Path
) -> None:
    before.run(f"sed -i 's/^id =.*/id = edge-77/' {CONFIG}")
    before.configure("[sensor:temperature]\nrate = 20\n")
    before.ctl("start")
    supervisor = before.main_pid()
    asked = before.install(newest, check=False)
    assert asked.returncode != 0
    assert "end of file on stdin at conffile prompt" in asked.stdout + asked.stderr
    assert before.main_pid() == supervisor
    before.await_captured(20)

    before.run("dpkg --configure --force-confold -a")
    assert before.main_pid() != supervisor
    assert before.status()["version"] == NEWEST
    assert "id = edge-77" in before.run(["cat", CONFIG]).stdout
    before.start_sink()
    before.assert_nothing_lost()


def test_a_version_that_refuses_the_configuration_leaves_the_old_one_running(
    before: Box, strict: Path, new: Path
) -> None:
    before.configure("[sensor:temperature]\nrate = 20\n")
    before.ctl("start")
    supervisor = before.main_pid()
    done = before.install(strict)
    said = done.stdout + done.stderr
    assert "keep_sent = '24h': want" in said
    assert "sensor-node: sensor-node.service goes on with the version before" in said
    assert before.run("dpkg-query -W -f '${Status}' sensor-node").stdout.endswith(" installed")
    assert before.main_pid() == supervisor
    told = before.ctl("status", status=4).stderr
    assert f"version {OLD} runs by what it read before; this is version {STRICT}" in told
    before.install(new)
    assert before.main_pid() != supervisor
    before.await_captured(20)
    before.start_sink()
    before.assert_nothing_lost()


def test_a_node_that_no_systemd_looks_after_is_restarted_too(before: Box, new: Path) -> None:
    before.container.copy_in(new)
    script = f"""
    mount -t tmpfs tmpfs /run/systemd
    sensor-node-ctl start
    dpkg -i /root/{new.name}
    sensor-node-ctl status --json
    sensor-node-ctl stop
    sensor-node-ctl audit
    """
    said = before.run(["unshare", "--mount", "sh", "-exc", script]).stdout
    assert f'"running_version": "{NEW}"' in said, said


def test_an_upgrade_leaves_alone_what_was_stopped(before: Box, new: Path) -> None:
    before.ctl("start")
    before.await_captured()
    before.ctl("stop")
    before.install(new)
    assert before.state() == "inactive"
    assert before.run("pgrep -u sensor-node", check=False).stdout == ""


def test_an_upgrade_of_an_enabled_node_leaves_it_enabled(before: Box, new: Path) -> None:
    before.run("systemctl enable --now --quiet sensor-node")
    before.install(new)
    assert before.state() == "active"
    assert before.run("systemctl is-enabled sensor-node").stdout == "enabled\n"


def test_an_upgrade_starts_a_second_node_again_too(before: Box, new: Path) -> None:
    file = "/etc/sensor-node/attic.ini"
    before.write(file, "[node]\nid = attic\n[sensor:damp]\nrate = 10\n")
    before.run("systemctl start sensor-node@attic")
    before.install(new)
    assert (before.state("sensor-node@attic"), before.state()) == ("active", "inactive")


def test_a_changed_configuration_file_is_taken_where_nobody_has_edited(
    before: Box, newest: Path
) -> None:
    before.install(newest)
    assert "# Of the newest version." in before.run(["cat", CONFIG]).stdout
    assert before.run(["stat", "-c", "%a %U:%G", CONFIG]).stdout == "640 root:sensor-node\n"


def test_a_newer_schema_is_refused_clearly_and_without_a_restart_loop(installed: Box) -> None:
    installed.ctl("start")
    installed.await_captured()
    installed.ctl("stop")
    change = f"import sqlite3; sqlite3.connect('{DATABASE}').execute('PRAGMA user_version = 99')"
    installed.run(["python3", "-c", change], user="sensor-node")
    refused = installed.ctl("start", status=None)
    assert refused.returncode != 0
    assert "has schema 99" in refused.stderr, refused
    wait_until(lambda: installed.state() == "failed", 15, "it has failed", installed.story)
    assert installed.show("ExecMainStatus") == "78"
    assert installed.show("NRestarts") == "0"
    assert "has schema 99" in installed.run("systemctl status sensor-node", check=False).stdout


def test_removing_keeps_the_data_and_installing_again_goes_on_with_it(
    running: Box, deb: Path
) -> None:
    captured = running.await_captured(20)
    running.run("DEBIAN_FRONTEND=noninteractive apt-get remove -y sensor-node")
    assert running.run("pgrep -u sensor-node", check=False).stdout == ""
    running.run(["test", "-s", DATABASE, "-a", "-s", CONFIG])
    running.install(deb)
    assert running.state() == "inactive"
    running.configure("[sensor:temperature]\nrate = 20\n")
    assert running.assert_nothing_lost() > captured


def test_installing_after_a_removal_says_how_to_start_what_is_enabled(
    running: Box, deb: Path
) -> None:
    running.write("/etc/sensor-node/attic.ini", "[sensor:damp]\nrate = 10\n")
    running.write("/etc/sensor-node/cellar.ini", "[sensor:damp]\nrate = 10\n")
    running.run("systemctl start sensor-node@cellar")
    running.run("systemctl enable --quiet sensor-node sensor-node@attic")
    running.run("DEBIAN_FRONTEND=noninteractive apt-get remove -y sensor-node")
    said = running.install(deb).stdout
    own = [line for line in said.splitlines() if line.startswith("sensor-node:")]
    assert len(own) == 2, said
    for line, unit in zip(own, ("sensor-node.service", "sensor-node@attic.service"), strict=True):
        assert line.startswith("sensor-node: enabled, but not running") and unit in line
        running.run(line.rpartition(": ")[2])
        assert running.state(unit) == "active"
    assert running.state("sensor-node@cellar") == "inactive"
    again = running.run(f"dpkg --install /root/{deb.name}").stdout
    assert "not running" not in again, again


def test_purging_deletes_everything_unasked_and_installing_again_works(
    running: Box, deb: Path
) -> None:
    running.write("/etc/sensor-node/attic.ini", "[sensor:damp]\nrate = 10\n")
    running.run("systemctl start sensor-node@attic")
    running.run("systemctl enable --quiet sensor-node sensor-node@attic sensor-node@cellar")
    running.await_captured()
    running.run("DEBIAN_FRONTEND=noninteractive apt-get purge -y sensor-node")
    left = "find / -xdev -name '*sensor-node*' -not -path '/proc/*' -not -path '/root/*'"
    found = running.run(f"{left}; ls -d /run/sensor-node* /etc/sensor-node*", check=False).stdout
    print(found)
    logs = [line for line in found.splitlines() if not line.startswith("/var/log/apt")]
    assert logs == []
    assert running.run("systemctl list-units --all --plain 'sensor-node*'").stdout.count("@") == 0
    running.install(deb)
    assert running.state() == "inactive"
    running.ctl("start")
    assert running.await_captured() < 20


def test_it_can_be_stopped_and_removed_where_no_systemd_runs(deb: Path) -> None:
    """In a chroot or an image that is being built, as by debootstrap."""
    with roots.copy("chroot") as root:
        subprocess.run(["cp", str(deb), f"{root}/root/"], check=True)
        for command in (["-i", f"/root/{deb.name}"], ["-r", "sensor-node"], ["-P", "sensor-node"]):
            done = subprocess.run(
                ["chroot", str(root), "dpkg", *command],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout + done.stderr
