"""start, stop, restart and reload where systemd runs the node.

Each of the four returns its exit status, or None where no systemd runs the node of the file.
"""

import os
import subprocess
from pathlib import Path

from sensor_node.config.loader import Config, load_config
from sensor_node.config.places import SYSTEM_DIRECTORY
from sensor_node.control import exits, in_force, lifecycle, privileges
from sensor_node.control.status_report import buffered
from sensor_node.core.errors import ConfigError, SensorNodeError
from sensor_node.supervision.disk import insist_on_disk
from sensor_node.supervision.pidfile import running_pid
from sensor_node.system.text import visible

# Exists if this machine was booted with systemd: sd_booted(3).
BOOTED = Path("/run/systemd/system")


def unit_of(file: Path) -> str | None:
    """The unit that runs the node of this configuration; None without such a unit or systemd."""
    file = Path(os.path.abspath(file))
    if file.parent != SYSTEM_DIRECTORY or not BOOTED.is_dir():
        return None
    name = file.stem
    unit = "sensor-node.service" if name == "config" else f"sensor-node@{name}.service"
    return unit if _property(unit, "LoadState") == "loaded" else None


def user_of(file: Path) -> tuple[str, list[str]]:
    """The user of this configuration's service, and its groups beside the user's own.

    Empty where there is no such service, or where the service runs as root.
    """
    unit = unit_of(file)
    if not unit:
        return "", []
    groups = f"{_property(unit, 'Group')} {_property(unit, 'SupplementaryGroups')}"
    return _property(unit, "User"), groups.split()


def main_pid() -> int | None:
    """The supervisor's pid if systemd runs this command as ExecReload=: systemd.service(5).

    Inside the unit's sandbox, neither /proc nor systemctl can tell it.
    """
    pid = os.environ.get("MAINPID", "")
    return int(pid) if pid.isdecimal() and "INVOCATION_ID" in os.environ else None


def start(file: Path) -> int | None:
    """Returns when every process is ready, as lifecycle.start() does."""
    if not (unit := unit_of(file)):
        return None
    config = load_config(file)
    paths = privileges.of_config(config)
    if pid := privileges.as_owner(paths, lambda: lifecycle.staying_pid(config)):
        print(f"already running (pid {pid})")
        return exits.OK
    _be_root("start", unit)
    return _begin(config, unit, "start")


def restart(file: Path) -> int | None:
    """One job for systemd, so that no other command comes between stop and start."""
    if not (unit := unit_of(file)):
        return None
    config = load_config(file)
    _be_root("restart", unit)
    privileges.as_owner(privileges.of_config(config), lambda: insist_on_disk(config))
    return _begin(config, unit, "restart")


def stop(file: Path) -> int | None:
    """Also ends the restarts of a unit that fails. It works with a mistake in the configuration."""
    if not (unit := unit_of(file)):
        return None
    _be_root("stop", unit)
    was_running = _running_pid(file)
    _systemctl("stop", unit)
    if not was_running:
        print("not running")
        return exits.OK
    if pid := _running_pid(file):
        raise SensorNodeError(f"still running, but not by {unit}; to stop it: kill {pid}")
    left = privileges.as_owner(
        privileges.of_file(file), lambda: buffered(in_force.configuration(file))
    )
    print(visible(f"stopped; {left}"))
    return exits.OK


def reload(file: Path) -> int | None:
    """systemd runs this command once more, as ExecReload= of the unit, and waits for it."""
    if pid := main_pid():
        return lifecycle.reload_process(load_config(file), pid)
    if not (unit := unit_of(file)):
        return None
    config = load_config(file)
    _be_root("reload", unit)
    try:
        _systemctl("reload", unit)
    except SensorNodeError:
        paths = privileges.of_config(config)
        problem = privileges.as_owner(paths, lambda: lifecycle.reload_problem(config))
        if not problem:
            raise
        raise SensorNodeError(problem) from None
    print("reloaded")
    return exits.OK


def _running_pid(file: Path) -> int | None:
    paths = privileges.of_file(file)
    *_, runtime = paths
    return privileges.as_owner(paths, lambda: running_pid(runtime))


def _begin(config: Config, unit: str, verb: str) -> int:
    try:
        _systemctl(verb, unit)
    except SensorNodeError:
        reason = _property(unit, "StatusText")
        if not reason:
            raise
        status = _property(unit, "ExecMainStatus")
        kind = ConfigError if status == str(exits.CONFIG) else SensorNodeError
        raise kind(reason) from None
    print(f"started (pid {_property(unit, 'MainPID')}); see: sensor-node-ctl status")
    if _property(unit, "UnitFileState") not in ("enabled", "enabled-runtime"):
        print(f"it is not started at boot; for that: systemctl enable {unit}")
    paths = privileges.of_config(config)
    lifecycle.warn_of_trouble(privileges.as_owner(paths, lambda: lifecycle.storage_trouble(config)))
    return exits.OK


def _be_root(verb: str, unit: str) -> None:
    if os.geteuid() != 0:
        raise SensorNodeError(f"{verb} needs root; for example: sudo systemctl {verb} {unit}")


def _systemctl(verb: str, unit: str) -> None:
    process = subprocess.run(["systemctl", verb, unit], stderr=subprocess.PIPE, text=True)
    if process.returncode:
        raise SensorNodeError(" ".join(process.stderr.split()) or f"systemctl {verb} {unit} failed")


def _property(unit: str, name: str) -> str:
    """A property of the unit; empty where systemctl cannot tell it."""
    command = ["systemctl", "show", "--value", f"--property={name}", unit]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
