"""Upgrade, downgrade, remove, purge: what was captured stays, and what ran runs again."""

import subprocess
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
OLD, NEW, NEWEST = "0.0.9", "90.1", "90.2"
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
        # A gap of less than a second is not worth a line in the history.
        package.prepend(tree / "DEBIAN/preinst", "sleep 1")

    return package.variant(deb, tmp_path_factory.mktemp("new"), NEW, witness)


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
    assert len(witnessed) == 2 and all(line.endswith("inactive 0") for line in witnessed)
    assert before.run("systemctl is-enabled sensor-node", check=False).stdout == "disabled\n"
    assert "id = edge-77" in before.run(["cat", CONFIG]).stdout
    assert before.run(["stat", "-c", "%a %U:%G", CONFIG]).stdout == "640 root:sensor-node\n"

    [gap] = before.history("not running")
    print(f"backlog {backlog}; {gap['detail']}")
    assert before.history("unclean stop") == []
    before.start_sink()
    assert before.assert_nothing_lost(DRAIN_SECONDS) > BACKLOG


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


def test_dpkg_asks_only_where_both_have_changed_the_configuration(
    before: Box, newest: Path
) -> None:
    before.run(f"sed -i 's/^id =.*/id = edge-77/' {CONFIG}")
    asked = before.install(newest, check=False)
    assert asked.returncode != 0 and "config.ini" in asked.stdout
    assert "end of file on stdin at conffile prompt" in asked.stdout + asked.stderr


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


def test_purging_deletes_everything_unasked_and_installing_again_works(
    running: Box, deb: Path
) -> None:
    running.write("/etc/sensor-node/attic.ini", "[sensor:damp]\nrate = 10\n")
    running.run("systemctl start sensor-node@attic && systemctl enable --quiet sensor-node")
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
