"""A booted Debian with Sensor Node on it: installed, configured, asked and watched from outside."""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import container
import roots
from container import Container
from waiting import wait_until

SERVICE = "sensor-node"
DATABASE = "/var/lib/sensor-node/telemetry.db"
SINK_DATABASE = "/var/lib/sink.db"
DROP_IN = "/etc/sensor-node/config.d/test.ini"
INSTALL_SECONDS = 120.0
STORY = (
    "systemctl status --no-pager --lines=0 'sensor-node*' sink",
    "journalctl --no-pager --lines=60 -u 'sensor-node*'",
    "sensor-node-ctl status",
    "sensor-node-ctl history",
)
# As the file's owner, who may need to write the WAL's index to read at all.
QUERY = """
import json, sqlite3, sys
database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, timeout=30)
print(json.dumps(database.execute(sys.argv[2]).fetchall()))
"""
# Copies, and the numbers behind the streams' names: those of a gap-free 1..n are n, n, 1, n.
STORED = """
SELECT count(*), count(DISTINCT number), min(number), max(number)
FROM (SELECT CAST(substr(id, instr(id, '-') + 1) AS INTEGER) AS number FROM message)
"""


class Box:
    def __init__(self, container: Container) -> None:
        self.container = container
        self.run = container.run

    def install(self, *debs: Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """By apt-get, as an operator does it; asking is impossible, so that a prompt fails."""
        files = " ".join(self.container.copy_in(deb) for deb in debs)
        command = f"DEBIAN_FRONTEND=noninteractive apt-get install -y --allow-downgrades {files}"
        return self.run(command, check=check, timeout=INSTALL_SECONDS)

    def ctl(
        self, *arguments: str, user: str | None = None, status: int | None = 0
    ) -> "subprocess.CompletedProcess[str]":
        """sensor-node-ctl; the exit status must be `status`, None for any."""
        done = self.run(["sensor-node-ctl", *arguments], user=user, check=False)
        said = f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert status is None or done.returncode == status, said
        assert "Traceback" not in done.stderr, said
        return done

    def write(self, file: str, text: str, mode: int = 0o640) -> None:
        path = Path(f"{self.container.root}{file}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        self.run(["chgrp", "--no-dereference", "sensor-node", file])

    def configure(self, text: str) -> None:
        self.write(DROP_IN, text)

    def start_sink(self, port: int = 8470) -> None:
        command = f"sensor-node-ctl sink --port {port} --db {SINK_DATABASE}"
        self.run(f"systemd-run --quiet --unit=sink {command}")
        wait_until(lambda: "listening" in self.journal("sink"), what="the sink listens")

    # What systemd says

    def show(self, what: str, unit: str = SERVICE) -> str:
        return self.run(["systemctl", "show", "--value", "-p", what, unit]).stdout.strip()

    def state(self, unit: str = SERVICE) -> str:
        return self.show("ActiveState", unit)

    def main_pid(self, unit: str = SERVICE) -> int:
        return int(self.show("MainPID", unit))

    def journal(self, unit: str = SERVICE) -> str:
        return self.run(["journalctl", "--no-pager", "-o", "cat", "-u", unit]).stdout

    # What the node says

    def status(self, file: str = "/etc/sensor-node/config.ini") -> dict[str, Any]:
        told: dict[str, Any] = json.loads(
            self.ctl("-c", file, "status", "--json", status=None).stdout or "{}"
        )
        return told

    def pids(self) -> dict[str, int]:
        """Pids inside the container, by name, of the processes that are RUNNING."""
        found = {
            child["name"]: child["pid"]
            for child in self.status().get("processes", [])
            if child["state"] == "RUNNING"
        }
        return {"supervisor": self.main_pid(), **found}

    def kill(self, *pids: int) -> None:
        self.run("kill -9 " + " ".join(map(str, pids)))

    def history(self, kind: str = "") -> list[dict[str, Any]]:
        told = json.loads(self.ctl("history", "--json").stdout)
        return [event for event in told if event["kind"] == kind or not kind]

    def query(self, sql: str, database: str = DATABASE) -> list[Any]:
        owner = self.run(["stat", "-c", "%U", database]).stdout.strip()
        done = self.run(["python3", "-c", QUERY, database, sql], user=owner)
        rows: list[Any] = json.loads(done.stdout)
        return rows

    def captured(self) -> int:
        return self._count("captured")

    def _count(self, what: str) -> int:
        counts = self.status().get("counts")
        return int(counts[what]) if counts else 0

    def await_running(self, unit: str = SERVICE, deadline: float = 60.0) -> None:
        wait_until(lambda: self.state(unit) == "active", deadline, f"{unit} is active", self.story)

    def await_captured(self, more: int = 3) -> int:
        """Wait for `more` new readings; how many there are then."""
        least = self.captured() + more
        what = f"{more} more readings are captured"
        return wait_until(lambda: (n := self.captured()) >= least and n, 60, what, self.story)

    def await_delivered(self, deadline: float = 60.0) -> None:
        """All that is captured by now: at some rates something is always on its way."""
        least = self.captured()
        what = f"the {least} readings captured are delivered"
        wait_until(lambda: self._count("sent") >= least, deadline, what, self.story)

    def assert_nothing_lost(self, deadline: float = 60.0) -> int:
        """Deliver, stop, recount: rows, their ids, and the sink's. How many readings there are."""
        self.run(["systemctl", "start", SERVICE])
        self.await_captured()
        # Readings come faster than a look at them: let all be delivered while none comes.
        self.ctl("stop")
        self.configure("[sensor:temperature]\nrate = 1/h\n")
        least = self.captured() + 1
        self.run(["systemctl", "start", SERVICE])
        wait_until(lambda: self.captured() >= least, 60, "one more is captured", self.story)
        self.await_delivered(deadline)
        self.ctl("stop")
        said = self.ctl("audit", status=None)
        assert said.returncode == 0, said.stdout
        count, last = self.query("SELECT count(*), max(id) FROM message")[0]
        assert count == last > 0
        assert self.query(STORED, SINK_DATABASE) == [[count, count, 1, count]]
        return int(count)

    def story(self) -> str:
        """For a test that failed."""
        said = []
        for command in STORY:
            done = self.run(command, check=False)
            said.append(f"--- {command}\n{done.stdout}{done.stderr}")
        return "\n".join(said)


@contextlib.contextmanager
def box(
    name: str, deb: Path | None = None, *, more: Sequence[str] = (), suite: str = roots.SUITE
) -> Iterator[Box]:
    """Booted, with `more` packages; with the one under test if it is named."""
    with container.booted(name, *more, suite=suite) as booted:
        made = Box(booted)
        try:
            if deb:
                made.install(deb)
            yield made
        except BaseException:
            print(made.story())
            raise
