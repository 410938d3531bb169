"""The unit's sandbox: tried from inside, by `command` sensors of the running service."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box, box
from probes import PROBES
from waiting import wait_until

PROGRAM = "/usr/local/lib/probes.py"
# Exposure × 10.
MOST_EXPOSURE = 12
UNITS = "/lib/systemd/system/sensor-node.service /lib/systemd/system/sensor-node@.service"
TRIED_SECONDS = 20.0
PREPARE = """
mkdir --mode=777 /etc/open /usr/open /var/open
useradd --create-home ann && chmod 755 /home/ann && chmod 755 /root
echo secret | tee /home/ann/letter >/root/letter && chmod 644 /home/ann/letter /root/letter
"""
EXPECTED = {
    "write-etc": errno.EROFS,
    "write-usr": errno.EROFS,
    "write-var": errno.EROFS,
    "read-home": errno.EACCES,
    "read-root": errno.EACCES,
    "see-others": errno.ENOENT,
    "new-user-namespace": errno.EPERM,
    "new-mount-namespace": errno.EPERM,
    "packet-socket": errno.EAFNOSUPPORT,
    "raw-socket": errno.EPERM,
    "netlink-socket": errno.EAFNOSUPPORT,
    "write-and-execute": errno.EPERM,
    "make-setuid": errno.EPERM,
    "own-state": 0,
}
# Outside, only root may do these at all.
ROOT_ONLY = ("packet-socket", "raw-socket")


@pytest.fixture(scope="module")
def prepared(deb: Path) -> Iterator[Box]:
    """Running, with a sensor for each probe."""
    with box("sandbox", deb) as made:
        made.container.copy_in(Path(__file__).with_name("probes.py"), "/usr/local/lib")
        made.run(PREPARE)
        sensors = [
            f"[sensor:{name}]\nsource = command\ncommand = python3 {PROGRAM} {name}\nrate = 1\n"
            for name in PROBES
        ]
        made.configure("".join(sensors))
        made.ctl("start")
        yield made


@pytest.fixture(scope="module")
def inside(prepared: Box) -> dict[str, float]:
    """What each probe came to in the service; it is not there if it could not be run."""

    def found() -> dict[str, float]:
        return dict(prepared.query("SELECT name, max(value) FROM message GROUP BY name"))

    with contextlib.suppress(AssertionError):
        wait_until(lambda: set(PROBES) <= set(found()), TRIED_SECONDS)
    return found()


@pytest.mark.parametrize("name", PROBES)
def test_the_sandbox_holds(prepared: Box, inside: dict[str, float], name: str) -> None:
    user = None if name in ROOT_ONLY else "sensor-node"
    outside = prepared.run(["python3", PROGRAM, name], user=user).stdout
    assert outside == "0\n", "the probe chunks nowhere: nothing is shown by it"
    assert inside.get(name) == EXPECTED[name], prepared.journal()


def test_every_process_is_without_capabilities_and_cannot_gain_any(prepared: Box) -> None:
    wanted = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"]
    for name, pid in prepared.pids().items():
        lines = prepared.run(f"cat /proc/{pid}/status").stdout.splitlines()
        values = dict(line.split(":\t", 1) for line in lines)
        found = [int(values[key], 16) for key in wanted]
        assert found == [0, 0, 0, 0, 0, 1, 2], name


def test_the_exposure_is_low(installed: Box) -> None:
    for unit in UNITS.split():
        command = f"systemd-analyze security --no-pager --offline=true --threshold={MOST_EXPOSURE}"
        said = installed.run(f"{command} {unit}").stdout
        print(said.splitlines()[-1])
        assert "Overall exposure level" in said


def test_systemd_understands_every_line_of_the_units(installed: Box) -> None:
    """`verify` exits 0 on a key that it does not know, and only prints it."""
    done = installed.run(f"systemd-analyze verify --man=no {UNITS}")
    assert done.stdout + done.stderr == ""
    control = "sed 's/^ProtectClock=/ProtectClocks=/' /lib/systemd/system/sensor-node.service"
    installed.run(f"{control} >/etc/systemd/system/typo.service")
    done = installed.run("systemd-analyze verify --man=no /etc/systemd/system/typo.service")
    assert "ProtectClocks" in done.stderr
