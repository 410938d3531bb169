"""Root's commands among files of a user who may be who was broken into: root is led nowhere."""

import json
import os
import pty
import shutil
import signal
import struct
import subprocess
from pathlib import Path

import pytest
from crash import proc
from faults.given_away import (
    NOBODY,
    PYTHON,
    SECRET,
    give_away,
    outside,
)


def test_a_journal_that_names_a_file_of_roots_deletes_nothing(node, place):
    own = place / "rootdir" / "own"
    (node.state / "telemetry.db-journal").write_bytes(forged(node.database, own))
    give_away(node)
    for command in ("requeue --dead", "status", "audit", "start"):
        (node.state / "telemetry.db-journal").write_bytes(forged(node.database, own))
        give_away(node)
        node.run(*command.split(), status=None)
        assert own.read_bytes() == SECRET
    node.await_delivered()


@pytest.mark.parametrize("versions", [b"\2\2", b"\1\1"], ids=["a WAL", "no WAL"])
def test_a_journal_is_played_back_by_nobody(node, place, versions):
    """Not by the node's own user either: it may be of use, and it may name what that user has."""
    victim = node.state / "victim"
    with node.database.open("r+b") as database:
        database.seek(18)
        database.write(versions)
    for command in ("status", "requeue --dead", "start", "status"):
        victim.write_bytes(SECRET)
        (node.state / "telemetry.db-journal").write_bytes(forged(node.database, victim))
        give_away(node)
        said = node.run(*command.split(), status=None)
        assert victim.read_bytes() == SECRET
        assert not (node.state / "telemetry.db-journal").exists()
        assert command == "start" or "no node has made it" in said.stderr
    assert list(node.state.glob("telemetry.db-journal.quarantined-*"))
    node.await_delivered()


def forged(database, name):
    """A rollback journal that names `name` as its super-journal, which SQLite deletes after it."""
    page = database.read_bytes()[:1024]
    magic = bytes.fromhex("d9d505f920a163d7")
    pages = database.stat().st_size // 1024
    head = magic + struct.pack(">IIIII", 1, 7, pages, 512, 1024)
    check = 7
    for place in range(824, 0, -200):
        check = (check + page[place]) & 0xFFFFFFFF
    text = os.fsencode(name)
    return (
        head.ljust(512, b"\0")
        + struct.pack(">I", 1)
        + page
        + struct.pack(">I", check)
        + struct.pack(">I", 0x40000000 // 1024 + 1)
        + text
        + struct.pack(">II", len(text), sum(text))
        + magic
    )


@pytest.mark.parametrize("command", ["stop", "reload"])
def test_a_stranger_whom_the_pid_file_names_gets_no_signal(node, place, command):
    own = place / "rootdir" / "own"
    with own.open("rb") as opened, subprocess.Popen(["sleep", "60"], stdin=opened) as stranger:
        try:
            boot = (proc.PROC / "sys/kernel/random/boot_id").read_text().strip()
            ticks = (proc.PROC / str(stranger.pid) / "stat").read_text().rpartition(")")[2].split()
            identity = f"supervisor:{boot}:{stranger.pid}:{ticks[19]}"
            (node.state / "sensor-node.pid").write_text(f"{stranger.pid}\n{identity}\n")
            lock = node.state / "telemetry.db.appliance"
            lock.unlink()
            lock.symlink_to(own)
            give_away(node)
            node.run(command, status=None)
            # Of the signals that wait, the lowest number comes first: one sent before would show.
            stranger.send_signal(signal.SIGPROF)
            assert stranger.wait(60) == -signal.SIGPROF
        finally:
            stranger.send_signal(signal.SIGKILL)


def test_a_sink_of_roots_is_its_database_owners(node, place):
    own = place / "rootdir"
    before = outside(place)
    (node.state / "sink.db").symlink_to(own / "made-by-root")
    said = node.run("sink", "--port", "0", "--db", str(node.state / "sink.db"), status=1).stderr
    assert said.startswith("sensor-node-ctl: sink: cannot use")
    (node.state / "sink.db").unlink()
    shutil.copy(node.database, node.state / "sink.db")
    victim = (node.state / "sink.db-journal").write_bytes(forged(node.database, own / "own"))
    assert victim
    give_away(node)
    node.run("sink", "--port", "0", "--db", str(node.state / "sink.db"), status=None)
    assert outside(place) == before


def test_the_owner_is_found_on_each_way_that_a_link_leads(node, place):
    theirs, roots = place / "theirs", place / "roots"
    for made in (theirs, roots, place / "cfg"):
        made.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    (theirs / "state").symlink_to(roots)
    os.chown(theirs / "state", 0, 0, follow_symlinks=False)
    (place / "cfg" / "data").symlink_to("../theirs/./state")
    drop = "import os\nfrom sensor_node.control import privileges\nfrom pathlib import Path\n"
    for name in (place / "cfg" / "data" / "x", place / "cfg/../theirs/state"):
        code = f"{drop}privileges.drop(Path({str(name)!r})); print(os.geteuid())"
        done = subprocess.run(
            [PYTHON, "-c", code], env=node.environment(), capture_output=True, text=True
        )
        assert done.stdout == f"{NOBODY}\n", done.stderr


def test_a_drop_in_of_another_user_is_not_read_as_root(node, place):
    drop_ins = node.file.with_suffix(".d")
    drop_ins.mkdir()
    os.chown(drop_ins, NOBODY, NOBODY)
    (drop_ins / "a.ini").symlink_to(place / "rootdir" / "own")
    os.chown(drop_ins / "a.ini", NOBODY, NOBODY, follow_symlinks=False)
    for command in ("check", "status", "start"):
        done = node.run(command, status=None)
        # status asks as the owner, to whom the link is its own.
        refused = "is a symbolic link that another user made; remove it"
        assert f"a.ini: {'cannot be read' if command == 'status' else refused}" in done.stderr
        assert "s3cret" not in done.stdout + done.stderr


def test_whose_the_configuration_is_does_not_make_root_another_user(node):
    drop_ins = node.file.with_suffix(".d")
    drop_ins.mkdir()
    (drop_ins / "site.ini").write_text("[log]\nlevel = info\n")
    for file in (node.file, drop_ins / "site.ini"):
        os.chown(file, NOBODY - 1, NOBODY - 1)
    node.start()
    node.await_captured(node.captured() + 5)
    assert {os.stat(f"/proc/{pid}").st_uid for pid in node.processes()} == {NOBODY}
    node.run("stop")


def test_a_link_to_a_file_of_the_systems_is_not_to_be_given_away(node, place):
    node.database.unlink()
    node.database.symlink_to(place / "rootdir" / "own")
    os.chown(node.database, NOBODY, NOBODY, follow_symlinks=False)
    for command in ("check", "status"):
        done = node.run(command, status=None)
        assert "chown" not in done.stdout + done.stderr
        assert "chmod" not in done.stdout + done.stderr


def test_roots_environment_stays_roots(node):
    node.variables["API_KEY"] = "s3cret"
    node.start()
    node.await_captured(node.captured() + 5)
    for pid in node.processes():
        assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()
    node.run("stop")
    with node.background("run"):
        node.await_captured(node.captured() + 5)
        for pid in node.processes():
            assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()
        for name, pid in node.pids().items():
            score = Path(f"/proc/{pid}/oom_score_adj").read_text()
            assert (score == "500\n") == name.startswith(("sender", "retrier")), name
        node.run("stop")


def test_who_runs_it_at_roots_terminal_cannot_type_there(node):
    """What is typed for root by ioctl(2), TIOCSTI, is root's command."""
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe(node.command("run")[0], node.command("run"), node.environment())
    try:
        node.await_captured(node.captured() + 5)
        for one in node.processes():
            terminal_number = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[4]
            assert terminal_number == "0"
        node.run("stop")
    finally:
        os.close(terminal)
        proc.send(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_what_root_starts_runs_as_the_owner_and_what_root_asks_is_answered(node):
    node.start()
    node.await_captured(node.captured() + 5)
    for pid in node.processes():
        assert os.stat(f"/proc/{pid}").st_uid in (0, NOBODY)
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}" in status
        assert "CapEff:\t0000000000000000" in status
    assert json.loads(node.run("status", "--json").stdout)["state"] == "running"
    node.run("reload")
    owners = {name.name: name.lstat().st_uid for name in node.state.iterdir()}
    assert set(owners.values()) == {NOBODY}, owners
    node.run("stop")
