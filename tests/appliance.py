"""The real appliance for tests: real processes, started by the real command line."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from waiting import wait_until

CONFIG = """
[node]
id = crash-test
[sensor:load]
source = mock
waveform = random-walk
rate = {rate}
[storage]
min_free = 0
[sink]
url = {url}
timeout = {timeout}
delivery = {delivery}
[retry]
initial_delay = 100ms
max_delay = 500ms
"""


class Appliance:
    """One node in a directory of its own; a context manager that leaves nothing running."""

    def __init__(
        self,
        directory: Path,
        url: str,
        rate: float = 50,
        timeout: str = "10s",
        delivery: str = "at-least-once",
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.config = directory / "config.ini"
        self.config.write_text(
            CONFIG.format(url=url, rate=rate, timeout=timeout, delivery=delivery)
        )
        self.state = directory / "sensor-node-data"
        self.database = self.state / "telemetry.db"

    def __enter__(self) -> "Appliance":
        self.ctl("start")
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None and (self.state / "sensor-node.log").exists():
            print((self.state / "sensor-node.log").read_text())
        subprocess.run(self._command("stop"), capture_output=True, timeout=90)

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "sensor_node", "-c", str(self.config), *words]

    def ctl(self, *words: str, status: int | None = 0) -> str:
        done = subprocess.run(self._command(*words), capture_output=True, text=True, timeout=90)
        assert status is None or done.returncode == status, (words, done)
        return done.stdout + done.stderr

    def status(self) -> dict:
        return json.loads(self.ctl("status", "--json", status=None))

    def counts(self) -> dict:
        return self.status()["counts"] or {}

    def pids(self) -> dict[str, int]:
        return {one["name"]: one["pid"] for one in self.status()["processes"] if one["pid"]}

    def kill(self, name: str) -> None:
        """SIGKILL; returns when the process is gone and another has taken its place."""
        pid = self.pids()[name]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.pids().get(name, pid) != pid, 30, f"another {name}", self.log)

    def log(self) -> str:
        return (self.state / "sensor-node.log").read_text()

    def query(self, statement: str) -> list[tuple]:
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    def supervisor(self) -> int:
        return int((self.state / "sensor-node.pid").read_text().split()[0])
