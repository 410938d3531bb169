"""Files in the node's directory that somebody else has put there, or changed: nothing outside is
written, no process of others gets a signal, and whoever looks is told in one line."""

import contextlib
import json
import os
import signal
import stat
import subprocess

import pytest
from checker import judge
from crash import proc
from crash.node import STATE_FILES, Node, running
from faults.hostile import ESCAPES, assert_harmless
from sinks import SinkProcess

NOBODY = 65534
PRECIOUS = b"precious\n"
RECORD = f"command-{'0' * 32}-temperature.pgid"
TRAPPED = (*STATE_FILES, "sensor-node.log.new", RECORD)


# What a reader opens too, and commands that open it.
OPENED = ("telemetry.db", "telemetry.db-wal", "telemetry.db-shm")
OPENING = ("status", "requeue --dead")


@pytest.fixture
def stopped(tmp_path):
    """A node that has run, and its sink."""
    with SinkProcess(tmp_path) as sink, Node(tmp_path / "node", sink={"url": sink.url}) as node:
        node.start()
        node.await_captured(5)
        node.stop()
        yield node, sink


def fingerprint(file):
    found = file.stat()
    return file.read_bytes(), found.st_uid, found.st_gid, found.st_mode, found.st_mtime_ns


def test_a_link_that_was_put_there_leads_to_nothing_that_is_changed(stopped, tmp_path):
    if os.geteuid():
        pytest.skip("only root can be led to write what is others'")
    node, sink = stopped
    victim = tmp_path / "victim"
    for name in TRAPPED:
        # SQLite would make a database of an empty file.
        victim.write_bytes(b"" if name == "telemetry.db" else PRECIOUS)
        victim.chmod(0o600)
        os.chown(victim, 7, 7)
        before = fingerprint(victim)
        file = node.state / name
        aside = file.with_name("aside")
        if file.exists():
            file.rename(aside)
        file.symlink_to(victim)
        os.chown(file, NOBODY, NOBODY, follow_symlinks=False)
        said = node.run("start", status=78).stderr
        told = "is a symbolic link" + (" that another user made" if name == "telemetry.db" else "")
        assert said == f"sensor-node-ctl: {file}: {told}; remove it\n"
        for command in OPENING if name in OPENED else ():
            node.run(*command.split(), status=None)
        assert fingerprint(victim) == before, name
        assert node.processes() == []
        file.unlink()
        with contextlib.suppress(FileNotFoundError):
            aside.rename(file)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("victim")] == [
        "victim"
    ], "nothing was made beside it"
    node.start()
    node.await_delivered()
    node.stop()
    judge(node.database, sink.database).assert_good()


def test_a_link_that_is_put_there_while_the_node_runs_is_written_through_by_nobody(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(PRECIOUS)
    before = fingerprint(victim)
    sensor = {"source": "command", "rate": 5, "command": "echo 1"}
    with running(tmp_path, sensor=sensor) as (node, _):
        for name in ("processes.new", "sensor-node.log.new"):
            with contextlib.suppress(FileNotFoundError):
                (node.state / name).unlink()
            with contextlib.suppress(FileExistsError):  # it was quicker
                (node.state / name).symlink_to(victim)
        node.kill("housekeeper")
        node.await_captured(node.captured() + 5)
        assert fingerprint(victim) == before


def test_what_the_node_writes_is_not_for_others(stopped):
    node, _ = stopped
    assert stat.S_IMODE(node.state.stat().st_mode) == 0o750
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in node.state.iterdir()}
    assert {"telemetry.db", "sensor-node.log"} <= set(modes)
    assert not [name for name, mode in modes.items() if mode & 0o007], modes


def identity(pid, *, ticks=0):
    boot = (proc.PROC / "sys/kernel/random/boot_id").read_text().strip()
    start = (proc.PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    return f"supervisor:{boot}:{pid}:{int(start) + ticks}"


@contextlib.contextmanager
def stranger():
    """Somebody's process, which any signal would end."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_no_process_but_the_nodes_own_gets_a_signal_whatever_the_pid_file_says(stopped):
    node, _ = stopped
    file, report = node.state / "sensor-node.pid", (node.state / "processes.json").read_text()
    with stranger() as victim, stranger() as other:
        told = {
            "a stranger, by all that can be known of it": f"{victim.pid}\n{identity(victim.pid)}",
            "a stranger, as another process": f"{victim.pid}\n{identity(other.pid)}",
            "a number that was used again": f"{victim.pid}\n{identity(victim.pid, ticks=-1)}",
            "a number too many": f"{victim.pid}\nsupervisor:{'9' * 400}:{victim.pid}:1",
            "no number": f"{victim.pid}\n{identity(victim.pid)}x",
            "ourselves": "0\nsupervisor:0:0:0",
        }
        for what, text in told.items():
            file.write_text(text + "\n")
            said = node.run("stop", status=None).stderr
            assert said.count("\n") <= 1, said
            assert (victim.poll(), other.poll()) == (None, None), what
        file.write_text(told["a stranger, by all that can be known of it"] + "\n")
        (node.state / "processes.json").write_text(report)
        for command in ("stop", "reload"):
            said = node.run(command, status=1).stderr
            assert said.endswith(f"names process {victim.pid}, which is not this node; remove it\n")
        assert victim.poll() is None
        file.unlink()
        _, boot, pid, ticks = identity(victim.pid).split(":")
        (node.state / RECORD).write_text(" ".join([boot, pid, ticks]))
        node.start()
        node.stop()


def test_a_forged_report_ends_no_command_and_nobodys_process(tmp_path):
    with running(tmp_path) as (node, _), stranger() as victim:
        report, file = node.report(), node.state / "processes.json"
        child = report["processes"][0]
        supervisor = node.pids()["supervisor"]
        proc.send(supervisor, signal.SIGSTOP)  # or it would write the report anew
        forged = (
            {**report, "since": "yesterday"},
            {**report, "since": float("nan")},
            {**report, "since": -1e300},
            {**report, "settings": [["sink", "url", 5, None]]},
            {**report, "settings": [["storage", "path", "/nowhere/at/all", "x"]] * 2},
            {**report, "settings": [["sink", "url", ESCAPES, ESCAPES]]},
            {**report, "processes": [{**child, "pid": "1"}]},
            {**report, "processes": [{**child, "pid": -1, "owner": identity(victim.pid)}]},
            {**report, "problem": ESCAPES, "processes": [{**child, "name": ESCAPES}]},
            {**report, "processes": [{**child, "trouble": ESCAPES, "state": ESCAPES}]},
        )
        try:
            for one in forged:
                file.write_text(json.dumps(one))
                done = node.run("status", status=None)
                assert_harmless(done.stdout + done.stderr, one)
            file.write_text("[" * 100_000)
            assert node.status()["processes"] == []
        finally:
            os.kill(supervisor, signal.SIGCONT)
        owned = {**child, "pid": victim.pid, "owner": identity(victim.pid)}
        file.write_text(json.dumps({**report, "processes": [owned]}))
        node.stop()
        assert victim.poll() is None


def test_a_secret_that_others_can_read_is_told_with_its_hint(tmp_path):
    token, extra = tmp_path / "token", "http://127.0.0.1:9/telemetry?key=value"
    token.write_text("secret\n")
    with Node(tmp_path / "node", sink={"token_file": token}) as node:
        for mode, warned in ((0o640, False), (0o604, True)):
            token.chmod(mode)
            said = f"{token}: every user can read it: chmod o= {token}"
            assert (said in node.run("check").stdout) == warned, oct(mode)
        assert said in node.run("status", status=3).stdout
        node.file.chmod(0o644)
        assert f"{node.file}: every user" not in node.run("check").stdout
        node.configure(sink={"url": extra})
        assert f"chmod o= {node.file}\n" in node.run("check").stdout
        node.file.chmod(0o602)
        assert f"chmod o-w {node.file}\n" in node.run("check").stdout
