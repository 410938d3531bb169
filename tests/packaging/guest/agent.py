"""In the guest: carries out shell commands from a virtio-serial port, one JSON object a line.

`agent.py watch DATABASE` reports instead, on another port, the highest id that a reader finds.
SQLite shows readers a commit of synchronous=FULL only after the sync of its WAL, so each id
reported is of a reading that must survive a power cut.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

PORTS = Path("/sys/class/virtio-ports")
POLL_SECONDS = 0.02


def open_port(name: str) -> int:
    for entry in PORTS.iterdir():
        if (entry / "name").read_text().strip() == name:
            return os.open(f"/dev/{entry.name}", os.O_RDWR | os.O_CLOEXEC)
    raise SystemExit(f"{PORTS}: no port {name}")


def carry_out(command: str, timeout: float) -> dict[str, object]:
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        err += f"\nkilled after {timeout:g} s"
    return {"status": process.returncode, "stdout": out, "stderr": err}


def obey(port: int) -> None:
    with open(port, "rb", closefd=False) as orders:
        for line in orders:
            order = json.loads(line)
            answer = json.dumps(carry_out(order["command"], order["timeout"])) + "\n"
            left = answer.encode()
            while left:
                left = left[os.write(port, left) :]


def watch(port: int, database: str) -> None:
    last, connection = 0, None
    while True:
        try:
            connection = connection or sqlite3.connect(f"file:{database}?mode=ro", uri=True)
            (found,) = connection.execute("SELECT coalesce(max(id), 0) FROM message").fetchone()
        except sqlite3.Error:  # not made yet
            found = 0
        if found > last:
            last = found
            os.write(port, f"{found}\n".encode())
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["watch"]:
        watch(open_port("reports"), sys.argv[2])
    obey(open_port("agent"))
