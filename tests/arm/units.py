"""The unit and the property tests by an ARM's own Python, each program run by qemu-user.

Whole nodes are not tried so: qemu-user shows a process another start of itself than others see.
"""

import re
import subprocess
from pathlib import Path

import package
from arm import machine

DIRECTORIES = ("tests/unit", "tests/property")
# The script of the new mount and PID namespace: what is mounted and started there ends with it. Two
# shells stay, so that no test is process 1, nor a child of it.
ENTER = """
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/dev/shm"
mount -t tmpfs tmpfs "$1/run"
mount -t proc proc "$1/proc"
(chroot "$@"; exit $?) || exit
"""
ENVIRONMENT = ("HOME=/root", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
SUMMARY = re.compile(r"^\d+ passed.*$", re.MULTILINE)
# The files that are left out, each with its reason. Of SLOW ones, the trial in the virtual machine
# goes through the same code; the processors differ in words and memory, not in what takes long.
SLOW = "takes minutes when emulated"
ALIEN = "tells processes apart by their starts"
CHECKOUT = "is about the checkout or other tests"
LEFT_OUT = {
    "tests/property/test_queue.py": SLOW,
    "tests/unit/benchmarks/test_bench.py": CHECKOUT,
    "tests/unit/delivery/test_client.py": SLOW,
    "tests/unit/sensors/test_command.py": ALIEN,
    "tests/unit/control/test_command_line.py": SLOW,
    "tests/unit/config/test_config_schema.py": SLOW,
    "tests/unit/sink/test_development_sink.py": SLOW,
    "tests/unit/test_documents.py": CHECKOUT,
    "tests/unit/processes/test_housekeeping_service.py": SLOW,
    "tests/unit/test_layout.py": CHECKOUT,
    "tests/unit/storage/test_query_plans.py": SLOW,
    "tests/unit/processes/test_retry_service.py": SLOW,
    "tests/unit/test_scripts.py": CHECKOUT,
    "tests/unit/processes/test_sensor_service.py": SLOW,
    "tests/unit/storage/queue/test_simulated_sensors.py": SLOW,
    "tests/unit/test_simulations.py": SLOW,
    "tests/unit/test_sinks.py": CHECKOUT,
    "tests/unit/processes/test_slow_link.py": SLOW,
    "tests/unit/control/test_systemctl.py": ALIEN,
}


def run(arm: machine.Arm, log: Path) -> str:
    """What pytest says at its end."""
    with machine.root(arm, "units") as root:
        package.checkout(root / "root/checkout")
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]
        command += ["--kill-child", "sh", "-ec", ENTER, "enter", str(root)]
        command += ["env", "-i", "-C", "/root/checkout", *ENVIRONMENT, "/usr/bin/python3"]
        command += ["-m", "pytest", "-q", "--durations=20"]
        command += [f"--ignore={file}" for file in LEFT_OUT]
        with log.open("w") as out:
            done = subprocess.run(
                [*command, *DIRECTORIES], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
    text = log.read_text()
    assert done.returncode == 0, text
    return str(SUMMARY.findall(text)[-1])
