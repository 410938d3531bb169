"""P1: the processes share the database and nothing else; capture does not even load HTTP."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from crash.node import Node, running

from sensor_node.core.model import Reading
from sensor_node.storage.journal.runs import NodeIdentity
from sensor_node.storage.queue.room import SizeLimits
from sensor_node.storage.repository import SensorDataSQLRepository

# A worker's whole life, from what the supervisor has loaded when it forks, to its last step.
LIFE = """
import json, os, signal, sys, time
import sensor_node.control.main
from sensor_node.supervision import appliance, worker
from sensor_node.config.loader import load_config
from sensor_node.supervision.pidfile import ApplianceLock
from sensor_node.supervision.roles import ROLES
from sensor_node.supervision.slots import make_slots

worker.preload()
before = sorted(sys.modules)
signal.pthread_sigmask(signal.SIG_BLOCK, worker.STOP_SIGNALS)
os.kill(os.getpid(), signal.SIGTERM)  # to be taken after the first step
config = load_config(sys.argv[1])
appliance.make_directories(config)
lock = ApplianceLock(config)
worker.work(worker.ChildSpec(
    role=ROLES[sys.argv[2]], config=config, slot=make_slots(1)[0], supervisor=os.getppid(),
    inherited=(), pending_events=(), run_started=time.monotonic(),
    unclean=False, after_death=False,
))
print(json.dumps([before, sorted(sys.modules)]))
"""
HTTP = ("requests", "urllib3", "http.client", "sensor_node.delivery.client")
# What the memory of a process contains that has loaded them: where their code came from.
TRACES = (b"/requests/sessions.py", b"/urllib3/connectionpool.py")
SENSORS = {
    "sensor:cpu": {"source": "host", "metric": "cpu", "rate": 1},
    "sensor:echo": {"source": "command", "command": "echo 1", "rate": 1},
}


def loaded(node: Node, role: str) -> tuple[set[str], set[str]]:
    """The modules of the supervisor, and of the process of that role at the end of its life."""
    done = subprocess.run(
        [sys.executable, "-c", LIFE, str(node.file), role],
        env=node.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    supervisor, worker = json.loads(done.stdout)
    return set(supervisor), set(worker)


def traces(pid: int) -> set[bytes]:
    """Which of TRACES are in the private memory of the running process."""
    found = set()
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, permissions, *_ = line.split(maxsplit=5)
            if permissions.startswith("rw-p"):
                start, end = (int(text, 16) for text in place.split("-"))
                memory.seek(start)
                part = memory.read(end - start)
                found |= {trace for trace in TRACES if trace in part}
    return found


def open_files(pid: int) -> set[str]:
    """What the descriptors of the process point at; pipes and sockets with their numbers."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since
            found.add(os.readlink(entry))
    return found


def shared_memory(pid: int) -> set[str]:
    """The names of the mappings where other processes see what this one writes."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    fields = [line.split(maxsplit=5) for line in lines]
    return {one[5] if len(one) > 5 else "anonymous" for one in fields if one[1].startswith("rw-s")}


@pytest.mark.parametrize("role", ["generator", "housekeeper"])
def test_what_has_no_business_with_the_network_never_loads_http(role, tmp_path):
    supervisor, worker = loaded(Node(tmp_path, **SENSORS), role)
    assert "sensor_node.storage.repository" in worker
    assert not worker.intersection(HTTP)
    assert not supervisor.intersection(HTTP)


def test_what_has_sent_nothing_yet_has_not_loaded_http(tmp_path):
    _, worker = loaded(Node(tmp_path), "sender")
    assert "sensor_node.storage.repository" in worker
    assert not worker.intersection(HTTP)


def test_what_sends_is_seen_to_load_http(tmp_path):
    node = Node(tmp_path)
    node.state.mkdir()
    with contextlib.closing(SensorDataSQLRepository(node.database)) as repository:
        repository.begin_run(NodeIdentity("edge-01", {}), 0.0, "run")
        repository.capture([Reading("room", 1.0, 0)], [], 0.0, SizeLimits(1 << 40, 0))
    _, worker = loaded(node, "sender")
    assert worker.issuperset(HTTP)


def test_running_workers_share_the_database_and_a_bell_and_nothing_else(tmp_path):
    with running(tmp_path, process={"senders": 2}) as (node, _):
        node.await_delivered(5)
        # Replacements are forked from a supervisor that has more open than the first one had.
        sender = node.kill("sender-1")
        node.await_running("sender-1", instead_of=sender)
        pids = node.pids()
        supervisor = open_files(pids.pop("supervisor"))
        database = {str(file) for file in node.state.glob("telemetry.db*")}
        bell = node.state / "bell"
        common = database | {"/dev/null", str(node.state / "sensor-node.log")}
        common |= {str(bell), str(bell / "bell")}
        assert len(pids) == 5
        for one, other in itertools.combinations(pids, 2):
            assert open_files(pids[one]) & open_files(pids[other]) <= common, (one, other)
        for pid in pids.values():
            # Its sentinel: this test would see a shared pipe.
            assert any(link.startswith("pipe:") for link in open_files(pid) & supervisor)
            assert shared_memory(pid) <= {str(node.shm), "/dev/zero (deleted)"}


def test_a_running_generator_has_no_http_in_its_memory_and_is_the_last_to_go(tmp_path):
    with running(tmp_path) as (node, _):
        node.await_delivered(5)
        pids = node.pids()
        try:
            assert traces(pids["sender-1"]) | traces(pids["sender-2"]) == set(TRACES)
        except PermissionError:
            pytest.skip("this user may not look into the memory of its processes")
        assert traces(pids["generator"]) == set()
        score = {name: Path(f"/proc/{pid}/oom_score_adj").read_text() for name, pid in pids.items()}
        assert all(int(score["generator"]) < int(score[one]) for one in ("sender-1", "retrier"))
