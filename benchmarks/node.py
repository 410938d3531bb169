"""An appliance in a directory of its own: its configuration, its commands, its processes."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.trial import PREFIX, ROOT, Trial, Unusable

# A sensor without limit, and room for what it captures.
BULK = {"source": "mock", "waveform": "sine", "rate": 1_000_000}
STORAGE = {"max_size": "64GiB", "min_free": 0, "keep_sent": "3650d"}
# The sink's return is noticed at once, where it is not the backoff that is measured.
PROMPT_RETRY = {"initial_delay": "100ms", "max_delay": "200ms"}
# stop_timeout is 10 s; whoever takes much longer will never end.
PATIENCE_SECONDS = 120


class Node:
    """One appliance. `code` is the directory that has the sensor_node to run."""

    def __init__(self, directory: Path, python: str, code: Path = ROOT) -> None:
        self.directory = directory
        self.config = directory / "config.ini"
        self.database = directory / "sensor-node-data" / "telemetry.db"
        self._command = [python, "-P", "-m", "sensor_node", "-c", str(self.config)]
        self._environment = {**os.environ, "PYTHONPATH": str(code)}

    def ctl(self, *arguments: str) -> str:
        """What sensor-node-ctl prints. Raises Unusable, with its last line, when it fails.

        An interrupt waits for it: whoever is starting must have started before it can be stopped.
        """
        process = subprocess.Popen(
            [*self._command, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            printed, errors = process.communicate()
        except BaseException:
            process.communicate(timeout=PATIENCE_SECONDS)
            raise
        if process.returncode:
            said = (errors or printed).strip().splitlines() or ["nothing"]
            raise Unusable(f"sensor-node-ctl {' '.join(arguments)} in {self.directory}: {said[-1]}")
        return printed

    def status(self) -> dict[str, Any]:
        return json.loads(self.ctl("status", "--json"))

    def captured(self) -> int:
        return self.status()["counts"]["captured"]

    def roles(self) -> dict[int, str]:
        """The role of every process, by its pid."""
        pid_file = self.database.with_name("sensor-node.pid")
        supervisor = int(pid_file.read_text().split()[0])
        children = {child["pid"]: child["role"] for child in self.status()["processes"]}
        return {supervisor: "supervisor", **children}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Started, and stopped in every case."""
        try:
            self.ctl("start")
            yield
        finally:
            if self.database.with_name("sensor-node.pid").exists():
                self.ctl("stop")


@contextmanager
def stopped(
    trial: Trial, config: str, place: Path | None = None, code: Path = ROOT
) -> Iterator[Node]:
    """A node in a directory that is removed afterwards, to be started."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as name:
        node = Node(Path(name), trial.python, code)
        node.config.write_text(config)
        yield node


@contextmanager
def running(trial: Trial, config: str) -> Iterator[Node]:
    """A node that runs meanwhile."""
    with stopped(trial, config) as node, node.running():
        yield node


def run_with_our_code(python: str, program: str, *arguments: str) -> Any:
    """The JSON that a program prints that needs what the node needs."""
    done = subprocess.run(
        [python, "-P", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise Unusable(f"{python} {program}: {said[-1]}")
    return json.loads(done.stdout)


def shipped(rate: float, port: int) -> str:
    """The checkout's own config.ini, but for the sensor's rate and the sink's port."""
    text = (ROOT / "config.ini").read_text()
    for name, value in (("rate", f"{rate:g}"), ("url", f"http://127.0.0.1:{port}/telemetry")):
        text, replaced = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
        if replaced != 1:
            raise Unusable(f"config.ini: has {replaced} lines `{name} = …`; one is expected")
    return text


def config_of(port: int, sensor: dict[str, object], **sections: dict[str, object]) -> str:
    """A configuration with one sensor and nearly boundless storage; `sections` are added."""
    url = {"url": f"http://127.0.0.1:{port}/telemetry"}
    wanted = {"sensor:bench": sensor, "storage": STORAGE, **sections}
    wanted["sink"] = {**url, **sections.get("sink", {})}
    lines = []
    for section, options in wanted.items():
        lines += [f"[{section}]", *(f"{name} = {value}" for name, value in options.items())]
    return "\n".join(lines) + "\n"
