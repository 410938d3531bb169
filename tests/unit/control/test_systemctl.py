"""start, stop, restart and reload on a machine where systemd runs the appliance.

systemctl is a stand-in that notes how it was called; tests/packaging has the real one.
"""

import os
import sys

import pytest

from sensor_node.control import main as main_module
from sensor_node.control import systemctl
from sensor_node.processes import owner

SYSTEMCTL = """#!/bin/sh
case $1 in
show) property=${3#--property=}; cat "$0.$property" 2>/dev/null || true ;;
*) echo "$*" >> "$0.calls"; [ ! -e "$0.fails" ] || { cat "$0.fails" >&2; exit 1; } ;;
esac
"""


class Machine:
    """A machine that was booted with systemd and has our units."""

    def __init__(self, directory, monkeypatch, capsys):
        self._capsys, self._monkeypatch = capsys, monkeypatch
        self.etc, self.bin = directory / "etc", directory / "bin"
        for made in (self.etc, self.bin, directory / "booted", directory / "state"):
            made.mkdir()
        self.file = self.etc / "config.ini"
        self.file.write_text("[sensor:room]\n")
        self._systemctl = self.bin / "systemctl"
        self._systemctl.write_text(SYSTEMCTL)
        self._systemctl.chmod(0o755)
        self.says(LoadState="loaded", MainPID="812", UnitFileState="enabled")
        state = directory / "state"
        monkeypatch.setattr("sensor_node.config.places.SYSTEM_DIRECTORY", self.etc)
        monkeypatch.setattr("sensor_node.control.systemctl.SYSTEM_DIRECTORY", self.etc)
        for module in ("config.loader", "control.privileges"):
            name = f"sensor_node.{module}.directories"
            monkeypatch.setattr(name, lambda file: (state, state))
        monkeypatch.setattr(systemctl, "BOOTED", directory / "booted")
        monkeypatch.setenv("PATH", f"{self.bin}:{os.environ['PATH']}")
        monkeypatch.setattr("os.geteuid", lambda: 0)

    def says(self, **properties):
        for name, value in properties.items():
            (self.bin / f"systemctl.{name}").write_text(value + "\n")

    def fails(self, why):
        (self.bin / "systemctl.fails").write_text(why)

    def calls(self):
        file = self.bin / "systemctl.calls"
        return file.read_text().splitlines() if file.exists() else []

    def runs(self):
        """The pid file names a living process."""
        (self.file.parent.parent / "state" / "sensor-node.pid").write_text(
            f"{os.getpid()}\n{owner.own_owner_id('supervisor')}\n"
        )

    def ctl(self, *words, file=None):
        """Exit status, output and errors."""
        command = ["sensor-node-ctl", "-c", str(file or self.file), *words]
        self._monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main_module.main()
        said = self._capsys.readouterr()
        return ended.value.code, said.out, said.err


@pytest.fixture
def machine(tmp_path, monkeypatch, capsys):
    return Machine(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_starting_goes_through_systemctl(machine, verb) -> None:
    said = "started (pid 812); see: sensor-node-ctl status\n"
    assert machine.ctl(verb) == (0, said, "")
    assert machine.calls() == [f"{verb} sensor-node.service"]


def test_start_says_that_it_is_not_enabled_at_boot(machine) -> None:
    machine.says(UnitFileState="disabled")
    code, out, _ = machine.ctl("start")
    assert code == 0
    assert "not started at boot; for that: systemctl enable sensor-node.service" in out


def test_start_of_what_runs_is_success(machine) -> None:
    machine.runs()
    assert machine.ctl("start") == (0, f"already running (pid {os.getpid()})\n", "")
    assert machine.calls() == []


@pytest.mark.parametrize(("status", "code"), [("78", 78), ("1", 1)])
def test_a_start_that_fails_gives_the_reason_that_the_service_gave(machine, status, code) -> None:
    machine.fails("Job for sensor-node.service failed.")
    machine.says(StatusText="/var/lib/x: cannot be written", ExecMainStatus=status)
    assert machine.ctl("start") == (code, "", "sensor-node-ctl: /var/lib/x: cannot be written\n")


def test_a_start_that_systemd_refuses_gives_its_words_in_one_line(machine) -> None:
    machine.fails("Failed to start sensor-node.service:\nUnit is masked.\n")
    line = "sensor-node-ctl: Failed to start sensor-node.service: Unit is masked.\n"
    assert machine.ctl("start") == (1, "", line)


def test_stop_ends_also_a_unit_that_is_only_waiting_to_start_again(machine) -> None:
    assert machine.ctl("stop") == (0, "not running\n", "")
    assert machine.calls() == ["stop sensor-node.service"]


def test_stop_does_not_claim_to_have_stopped_what_systemd_does_not_run(machine) -> None:
    machine.runs()
    code, out, err = machine.ctl("stop")
    assert (code, out) == (1, "")
    assert err.endswith(f"not by sensor-node.service; to stop it: kill {os.getpid()}\n")


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "reload"])
def test_without_root_it_says_what_to_do(machine, verb, monkeypatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    machine.says(StatusText="running")
    said = f"sensor-node-ctl: {verb} needs root; for example: "
    said += f"sudo systemctl {verb} sensor-node.service\n"
    assert machine.ctl(verb) == (1, "", said)
    assert machine.calls() == []


def test_reload_of_what_does_not_run_is_one_line(machine) -> None:
    machine.fails("Job type reload is not applicable for unit sensor-node.service.")
    code, _, err = machine.ctl("reload")
    assert (code, err) == (
        1,
        "sensor-node-ctl: not running; start it with: sensor-node-ctl start\n",
    )


def test_a_second_node_has_a_unit_of_its_own(machine) -> None:
    roof = machine.etc / "roof.ini"
    roof.write_text("[sensor:roof]\n")
    assert machine.ctl("start", file=roof)[0] == 0
    assert machine.calls() == ["start sensor-node@roof.service"]


def test_a_configuration_elsewhere_is_no_business_of_systemds(machine, tmp_path) -> None:
    own = tmp_path / "config.ini"
    own.write_text("[sensor:room]\n")
    assert systemctl.unit_of(own) is None


def test_neither_is_one_where_systemd_is_not_in_charge_or_has_no_such_unit(machine) -> None:
    assert systemctl.unit_of(machine.file) == "sensor-node.service"
    machine.says(LoadState="not-found")
    assert systemctl.unit_of(machine.file) is None
    machine.says(LoadState="loaded")
    systemctl.BOOTED.rmdir()
    assert systemctl.unit_of(machine.file) is None
