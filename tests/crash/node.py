"""A real node in a directory of its own: started, asked and stopped by the command line."""

import contextlib
import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from crash import proc
from crash.deaths import unasked_deaths
from sinks import SinkProcess
from waiting import wait_until

import sensor_node
from sensor_node.storage.engine.write_lock import Unwatched, WriteLock
from sensor_node.supervision.worker import EXIT_CONFIG

COMMAND_SECONDS = 90.0
LOG_LINES = 120
Sections = dict[str, dict[str, object]]
# Quick retries, so that a test waits for the product and not for its backoff.
DEFAULTS: Sections = {
    "node": {"id": "edge-01"},
    "sensor": {"source": "mock", "rate": 20},
    "storage": {"min_free": 0},
    "sink": {"batch_size": 50},
    "retry": {"initial_delay": "50ms", "max_delay": "500ms"},
    "process": {},
    "log": {"level": "debug"},
}
# What a node, or SQLite for it, makes in its directories.
STATE_FILES = (
    "telemetry.db",
    "telemetry.db-wal",
    "telemetry.db-shm",
    "telemetry.db-journal",
    "telemetry.db.turnstile",
    "telemetry.db.writer",
    "telemetry.db.appliance",
    "sensor-node.log",
    "sensor-node.pid",
    "processes.json",
    "processes.new",
)
LAST_RANGES = """
SELECT first_id, last_id, status, attempts, owner, last_error FROM batch
ORDER BY first_id DESC LIMIT 10
"""


class Node:
    """`with Node(directory, sensor={"rate": 500}, sink={"url": …}) as node: node.start()`.

    The keywords are the sections of config.ini; `sensor` is its one sensor. `prefix` is put before
    its command lines, as in ("ip", "netns", "exec", NAME). At the end every process of it is
    killed; if the test failed, its log and its database are shown first. If it did not fail, no
    process may have died but those that the test killed or stopped, and those in the places named
    in `may_die`, such as "sender-1": a test names there what it lets die in another way. What ends
    as a start is refused was asked for, too.
    """

    def __init__(
        self, directory: Path, *, prefix: Sequence[str] = (), **sections: dict[str, object]
    ) -> None:
        self.prefix = tuple(prefix)
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / "config.ini"
        self.state = directory / "sensor-node-data"
        # For its processes and commands, beside those of this test.
        self.variables: dict[str, str] = {}
        self.may_die: set[str] = set()
        # A start that was refused: its processes have ended with that status.
        self.refused = False
        self._sections = {name: dict(options) for name, options in DEFAULTS.items()}
        self.configure(**sections)

    def configure(self, **sections: dict[str, object]) -> None:
        """Write the configuration, with these options changed."""
        lines = []
        for name, options in sections.items():
            self._sections.setdefault(name, {}).update(options)
        for name, options in self._sections.items():
            lines.append(f"[{'sensor:temperature' if name == 'sensor' else name}]")
            lines += [f"{option} = {value}" for option, value in options.items()]
        default = self.state / "telemetry.db"
        self.database = Path(str(self._sections["storage"].get("path", default)))
        self.turnstile, self.writer, self.shm = (
            self.database.with_name(self.database.name + end)
            for end in (".turnstile", ".writer", "-shm")
        )
        self.write("\n".join(lines) + "\n")

    def write(self, text: str) -> None:
        """The configuration, as a whole: somebody may be reading it."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    @property
    def rate(self) -> float:
        return float(str(self._sections["sensor"]["rate"]))

    # The command line

    def command(self, *arguments: str) -> list[str]:
        program = [*self.prefix, sys.executable, "-m", "sensor_node"]
        return [*program, "-c", str(self.file), *arguments]

    def environment(self) -> dict[str, str]:
        """The product under test is the one that this test would import."""
        source = str(Path(sensor_node.__file__).parents[1])
        kept = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        return kept | {"PYTHONPATH": source} | self.variables

    def run(self, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """sensor-node-ctl; the exit status must be `status`, None for any."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        said = f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert status is None or done.returncode == status, said
        assert "Traceback" not in done.stderr, said
        self.refused |= done.returncode == EXIT_CONFIG and bool({"start", "run"} & {*arguments})
        return done

    @contextlib.contextmanager
    def background(self, *arguments: str, **environment: str) -> "Iterator[subprocess.Popen[str]]":
        """The same while the test goes on; what it says can be read from its stdout."""
        with subprocess.Popen(
            self.command(*arguments),
            env=self.environment() | environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def start(self) -> int:
        """The supervisor's pid."""
        said = self.run("start").stdout
        found = re.match(r"started \(pid (\d+)\)", said)
        assert found, said
        return int(found[1])

    def stop(self) -> str:
        return self.run("stop").stdout

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.run("status", "--json", status=None).stdout)
        return told

    def history(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = json.loads(self.run("history", "--json").stdout)
        return told

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.history() if event["kind"] == kind]

    def log(self) -> str:
        file = self.state / "sensor-node.log"
        return file.read_text() if file.exists() else ""

    def whole_log(self) -> str:
        """With what was rotated away, the oldest first."""
        files = (self.state / f"sensor-node.log{end}" for end in (".2", ".1", ""))
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    # Processes

    def report(self) -> dict[str, Any]:
        """What `status` goes by; cheaper than asking it over and over."""
        told: dict[str, Any] = json.loads((self.state / "processes.json").read_text())
        return told

    def pids(self) -> dict[str, int]:
        """By name, of the processes that are RUNNING, and of the supervisor."""
        report = self.report()
        children = {
            child["name"]: child["pid"]
            for child in report["processes"]
            if child["state"] == "RUNNING" and proc.is_alive(child["pid"])
        }
        return {"supervisor": report["pid"], **children}

    def kill(self, name: str) -> int:
        """SIGKILL, and wait until it is gone. Returns the pid that it had."""
        pid = self.pids()[name]
        proc.send(pid, signal.SIGKILL)
        wait_until(lambda: not proc.is_alive(pid), what=f"{name} is dead")
        return pid

    def kill_all(self) -> None:
        """SIGKILL whatever runs, and wait until no thread of it is left."""
        killed: set[int] = set()

        def gone() -> bool:
            left = self.processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    proc.send(pid, signal.SIGKILL)
            killed.update(left)
            return not left and not any(proc.is_alive(pid) for pid in killed)

        wait_until(gone, what=f"{self.file}: everything is killed")

    def stop_idle(self, name: str) -> int:
        """SIGSTOP, but not on the way to the write lock or with it. Returns the pid."""
        pid = self.pids()[name]

        def is_idle() -> bool:
            held = [proc.holders(file) for file in (self.turnstile, self.writer)]
            return pid not in held[0] | held[1] and not self.queues(pid)

        proc.stop_in_the_act(pid, is_idle)
        return pid

    def await_running(self, name: str, *, instead_of: int = 0) -> int:
        """The pid of the process in that place, when it is RUNNING and not the one before."""

        def another() -> int | None:
            pid = self.pids().get(name)
            return pid if pid != instead_of else None

        return wait_until(another, deadline=90, what=f"{name} is running again") or 0

    def processes(self) -> list[int]:
        """Every living process of this node, whoever knows of it."""
        return proc.with_argument(str(self.file))

    # The database

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No process of the node can begin a transaction meanwhile."""
        lock = WriteLock(self.database, Unwatched())
        try:
            with lock:
                yield
        finally:
            lock.close()

    def queues(self, pid: int) -> bool:
        """Whether the process waits for the write lock."""
        return proc.waits_for(pid, self.turnstile, self.writer)

    def rows(self, query: str, *values: object) -> list[Any]:
        """What another program finds in the database, read-only."""
        uri = f"{self.database.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
            return connection.execute(query, values).fetchall()

    def one(self, query: str, *values: object) -> Any:
        return self.rows(query, *values)[0][0]

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction of another program's."""
        opened = contextlib.closing(sqlite3.connect(self.database))
        with self.locked(), opened as connection, connection:
            yield connection

    def captured(self) -> int:
        return int(self.one("SELECT coalesce(max(id), 0) FROM message"))

    def await_captured(self, count: int) -> int:
        """Wait until so many readings are committed; how many there are then."""
        what = f"{count} readings are captured"
        return wait_until(lambda: (n := self.captured()) >= count and n, deadline=60, what=what)

    def await_delivered(self, up_to: int | None = None, *, but: int | None = None) -> None:
        """Wait until every reading captured so far, or up to that id, is SENT; `but` one id."""
        last = self.captured() if up_to is None else up_to
        query = "SELECT count(*) FROM message WHERE id <= ? AND (status = 'SENT' OR id IS ?)"
        what = f"readings up to {last} are delivered"
        wait_until(lambda: self.one(query, last, but) == last, deadline=90, what=what)

    def dropped(self) -> int:
        return int(self.one("SELECT coalesce(sum(n), 0) FROM dropped"))

    def times_us(self) -> list[int]:
        return [row[0] for row in self.rows("SELECT timestamp_us FROM message ORDER BY id")]

    def wire_ids(self, where: str = "1") -> set[str]:
        """As the sink sees them, of the messages that the condition picks."""
        streams = self.rows("SELECT first_id, name, wire_first FROM stream ORDER BY first_id DESC")
        found = set()
        for (message_id,) in self.rows(f"SELECT id FROM message WHERE {where}"):
            first, name, wire_first = next(one for one in streams if one[0] <= message_id)
            found.add(f"{name}-{message_id - first + wire_first}")
        return found

    # The end

    def story(self) -> str:
        """For a test that failed: what the product says of itself."""
        lines = [f"--- {self.file}", self.file.read_text(), "--- log"]
        lines += self.log().splitlines()[-LOG_LINES:]
        with contextlib.suppress(Exception):
            lines += ["--- status", self.run("status", status=None).stdout]
            lines += ["--- history", self.run("history", status=None).stdout]
            lines += ["--- last batch ranges", *map(str, self.rows(LAST_RANGES))]
        return "\n".join(lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        unasked = unasked_deaths(self.whole_log(), proc.victims, self.may_die)
        if self.refused:
            unasked = [line for line in unasked if not line.endswith(f" status {EXIT_CONFIG}")]
        if error is not None or unasked:
            print(self.story())
        self.kill_all()
        assert error is not None or not unasked, "\n".join(["nobody asked for:", *unasked])


@contextlib.contextmanager
def running(directory: Path, **sections: dict[str, object]) -> Iterator[tuple[Node, SinkProcess]]:
    """A node that has started, and a sink for it in a process of its own."""
    with SinkProcess(directory) as sink:
        sections["sink"] = {"url": sink.url, **sections.get("sink", {})}
        with Node(directory / "node", **sections) as node:
            node.start()
            yield node, sink


def await_hanging(sink: SinkProcess, count: int = 1) -> None:
    """Wait until so many requests have met a sink that hangs, and are stored if they are to be."""

    def hung() -> bool:
        return sum(request.behaviour.hang for request in sink.requests()) >= count

    wait_until(hung, what=f"{count} requests hang at the sink", detail=sink.summary)


def assert_nothing_lost(node: Node, sink: SinkProcess) -> None:
    """Deliver, stop, recount: P2, P3 and P4 for what this node captured and this sink received."""
    node.await_delivered()
    node.stop()
    assert node.processes() == []
    said = node.run("audit", status=None)
    assert said.returncode == 0, said.stdout
    ids = [row[0] for row in node.rows("SELECT id FROM message ORDER BY id")]
    assert ids == list(range(1, len(ids) + 1))
    assert node.wire_ids("status = 'SENT'") <= sink.stored_ids() <= node.wire_ids()
    assert sink.missing_numbers() == []
    assert sink.differing_ids() == set()
    assert node.one("SELECT count(*) FROM batch WHERE status = 'SENDING'") == 0


def assert_on_grid(times_us: list[int], rate: float) -> None:
    """Each reading has its own tick of the sensor's grid, and no tick is missing."""
    period = 1e6 / rate
    for before, after in itertools.pairwise(times_us):
        # The clocks of one sample are read one after the other: the process may be interrupted.
        assert 0.5 * period < after - before < 1.5 * period, (before, after)
    ticks = (times_us[-1] - times_us[0]) / period
    assert round(ticks) == len(times_us) - 1
