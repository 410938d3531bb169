"""No file is ever written by two nodes, whatever each of them calls it."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from crash import proc
from crash.node import Node, assert_nothing_lost, await_hanging, running
from sinks import hang, ok
from waiting import wait_until

HARD_LINK = "is one of 2 names (hard links)"
NOWHERE = {"url": "http://127.0.0.1:9/telemetry"}
MOUNTED = "is mounted by itself; mount its directory instead"


def can_mount() -> bool:
    if os.geteuid() or not shutil.which("unshare"):
        return False
    command = ["unshare", "--mount", "mount", "--bind", "/", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="needs root and unshare(1)")


def mounting(what: Path, where: Path) -> tuple[str, ...]:
    """A prefix for command lines that find the one at the other's place."""
    script = f'mount --bind "{what}" "{where}" && exec "$0" "$@"'
    return ("unshare", "--mount", "sh", "-c", script)


def symbolic(to: Path, name: Path) -> Path:
    name.symlink_to(to)
    return name


def hard(to: Path, name: Path) -> Path:
    name.hardlink_to(to)
    return name


def directory(to: Path, name: Path) -> Path:
    name.symlink_to(to.parent)
    return name / to.name


def relative(to: Path, name: Path) -> Path:
    return name / ".." / Path(os.path.relpath(to, name.parent))


def beside(to: Path, name: Path) -> Path:
    return hard(to, to.with_name(name.name))


WAYS = [symbolic, hard, beside, directory, relative]


def told(other: Node) -> str:
    """What its start, which fails, says in one line."""
    done = other.run("start", status=None)
    assert done.returncode
    assert other.processes() == []
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def assert_undisturbed(node: Node, pids: dict[str, int], captured_by: str = "temperature") -> None:
    """The node goes on, and the other has left nothing in its database."""
    node.await_captured(node.captured() + 20)
    assert node.pids() == pids
    assert node.events("unclean stop") == []
    assert node.rows("SELECT DISTINCT name FROM message") == [(captured_by,)]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_second_node_on_a_database_in_use_is_refused_with_the_pid_of_the_first(tmp_path, way):
    with running(tmp_path) as (node, sink):
        node.await_delivered(20)
        pids = node.pids()
        path = way(node.database, tmp_path / "another")
        with Node(tmp_path / "two", storage={"path": path}, sink={"url": sink.url}) as two:
            line = told(two)
            assert f"{path}: is in use by the appliance with pid {pids['supervisor']}\n" in line
        assert_undisturbed(node, pids)
        assert_nothing_lost(node, sink)


@needs_mounts
def test_so_is_one_that_finds_the_directory_mounted_at_another_place(tmp_path):
    with running(tmp_path) as (node, sink):
        node.await_delivered(20)
        pids, there = node.pids(), tmp_path / "there"
        there.mkdir()
        with Node(
            tmp_path / "two",
            prefix=mounting(node.state, there),
            storage={"path": there / node.database.name},
            sink={"url": sink.url},
        ) as two:
            assert f"in use by the appliance with pid {pids['supervisor']}\n" in told(two)
        assert_undisturbed(node, pids)
        assert_nothing_lost(node, sink)


@needs_mounts
@pytest.mark.parametrize("runs", [True, False], ids=["in use", "at rest"])
def test_a_database_that_is_mounted_by_itself_is_refused(tmp_path, runs):
    with running(tmp_path) as (node, sink):
        node.await_delivered(20)
        pids, there = node.pids(), tmp_path / "there.db"
        there.touch()
        if not runs:
            node.stop()
        with Node(
            tmp_path / "two",
            prefix=mounting(node.database, there),
            storage={"path": there},
            sink={"url": sink.url},
        ) as two:
            line = told(two)
            assert (f"with pid {pids['supervisor']}\n" if runs else MOUNTED) in line
            assert MOUNTED in two.run("history", status=78).stderr
        if runs:
            assert_undisturbed(node, pids)
        assert_nothing_lost(node, sink)


@needs_mounts
def test_a_node_in_another_container_is_refused_without_a_pid(tmp_path):
    """Of whom the kernel hides, only the lock can be seen."""
    with running(tmp_path) as (node, sink):
        node.await_delivered(20)
        pids = node.pids()
        for path in (node.database, hard(node.database, tmp_path / "another.db")):
            with Node(
                tmp_path / path.stem,
                prefix=("unshare", "--pid", "--fork", "--mount-proc"),
                storage={"path": path},
                sink={"url": sink.url},
                process={"stop_timeout": "1s"},
            ) as two:
                line = two.run("start", status=1).stderr.splitlines()[-1]
                assert "cannot be seen from here, perhaps in another container" in line
                assert f"{path}: is in use by" in line
        assert_undisturbed(node, pids)
        assert_nothing_lost(node, sink)


@pytest.mark.parametrize("way", [hard, beside], ids=lambda way: way.__name__)
def test_a_hard_link_to_a_database_whose_log_is_elsewhere_is_refused_before_it_is_written(
    tmp_path, way
):
    with running(tmp_path) as (node, sink):
        node.await_delivered(20)
        sink.behave(hang(store="no"))
        captured = node.await_captured(node.captured() + 100)
        node.kill_all()
        path = way(node.database, tmp_path / "another")
        before = node.database.read_bytes()
        with Node(tmp_path / "two", storage={"path": path}, sink={"url": sink.url}) as two:
            assert HARD_LINK in told(two)
            for command in (("history",), ("requeue", "--dead")):
                assert HARD_LINK in two.run(*command, status=78).stderr
            [problem] = two.status()["problems"]
            assert HARD_LINK in problem["what"]
            assert problem["hint"] == "use that, or a copy"
        assert node.database.read_bytes() == before
        # At home it is used, however many names it has.
        sink.behave(ok())
        sink.release()
        node.start()
        assert node.captured() >= captured
        assert_nothing_lost(node, sink)


def test_a_copy_and_a_moved_database_are_at_home_where_they_are(tmp_path):
    with running(tmp_path) as (node, sink):
        node.await_delivered(20)
        node.stop()
        moved = tmp_path / "moved.db"
        shutil.copy(node.database, tmp_path / "copy.db")
        node.database.rename(moved)
        for path in (moved, tmp_path / "copy.db"):
            with Node(tmp_path / path.stem, storage={"path": path}, sink={"url": sink.url}) as two:
                two.start()
                two.await_captured(two.captured() + 20)
                two.stop()
                hard(path, path.with_suffix(".link"))
                two.start()
                two.stop()


@pytest.mark.parametrize("way", [symbolic, directory, relative, hard], ids=lambda way: way.__name__)
def test_the_child_of_a_killed_supervisor_keeps_its_database_by_whatever_name(
    tmp_path, way: Callable[[Path, Path], Path]
):
    with running(tmp_path, process={"senders": 1}) as (node, sink):
        node.await_delivered(20)
        path = way(node.database, tmp_path / "another")
        sink.behave(hang(store="before"))
        await_hanging(sink)
        orphan = node.pids()["sender-1"]
        node.kill("supervisor")
        wait_until(lambda: node.processes() == [orphan], what="all others have ended")
        sink.behave(ok())
        with Node(tmp_path / "two", storage={"path": path}, sink={"url": sink.url}) as two:
            with two.background("start") as starting:
                assert starting.stdout
                line = starting.stdout.readline()
                if way is hard:
                    assert HARD_LINK in line
                else:
                    assert f"process (pid {orphan})" in line
                    assert proc.is_alive(orphan)
                sink.release()
                starting.wait(60)
            if way is hard:
                node.start()
            else:
                two.await_delivered()
                two.stop()
                assert two.processes() == []
        wait_until(lambda: not proc.is_alive(orphan), 60, "the orphan ends with its request")
        assert_nothing_lost(node, sink)


@pytest.mark.parametrize("way", [symbolic, hard, directory], ids=lambda way: way.__name__)
def test_salvage_leaves_a_database_alone_that_a_node_has_by_another_name(tmp_path, way):
    with running(tmp_path) as (used, sink):
        used.await_delivered(20)
        pids = used.pids()
        file = way(used.database, tmp_path / "another")
        with Node(tmp_path / "two") as two:
            line = two.run("salvage", str(file), status=1).stderr
            assert f"a node (pid {pids['supervisor']}) uses it; stop that node first" in line
        assert_undisturbed(used, pids)
        assert_nothing_lost(used, sink)


def test_a_node_whose_state_directory_is_anothers_by_a_link_is_refused(tmp_path):
    with running(tmp_path) as (node, sink):
        node.await_delivered(20)
        pids = node.pids()
        with Node(tmp_path / "two", sink=NOWHERE) as two:
            two.state.symlink_to(node.state)
            line = two.run("start", status=1).stderr
            assert f"with pid {pids['supervisor']}, which goes by {node.file}\n" in line
            done = two.run("run", status=1)
            assert f"in use by the appliance with pid {pids['supervisor']}\n" in done.stderr
            assert two.processes() == []
            two.state.unlink()
        assert_undisturbed(node, pids)
        assert_nothing_lost(node, sink)


def test_a_database_that_came_into_a_nodes_place_and_is_anothers_ends_it(tmp_path):
    with (
        running(tmp_path) as (node, sink),
        Node(tmp_path / "two", sink=NOWHERE) as two,
    ):
        node.await_delivered(20)
        pids, pid = node.pids(), two.start()
        new = hard(node.database, two.state / "new.db")
        new.rename(two.database)
        wait_until(lambda: not proc.is_alive(pid), 60, "it ends")
        wait_until(lambda: two.processes() == [], 60, "its children end")
        assert "Traceback" not in two.log()
        with contextlib.suppress(FileNotFoundError):
            two.database.unlink()
        assert_undisturbed(node, pids)
        assert_nothing_lost(node, sink)


def test_a_node_whose_lock_file_was_deleted_is_found_by_its_database(tmp_path):
    with running(tmp_path) as (node, sink):
        node.await_delivered(20)
        proc.send(node.pids()["supervisor"], 19)  # it puts nothing back
        node.database.with_name(node.database.name + ".appliance").unlink()
        pid = node.pids()["supervisor"]
        with Node(tmp_path / "two", storage={"path": node.database}) as two:
            assert f"in use by the appliance with pid {pid}\n" in told(two)
        os.kill(pid, 18)
        wait_until(lambda: "place_taken" in node.log() or "lock_gone" in node.log(), 60, "it looks")
        node.await_delivered()
        assert_nothing_lost(node, sink)


def test_a_link_that_is_turned_to_another_database_is_followed(tmp_path):
    link = tmp_path / "link.db"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    link.symlink_to(tmp_path / "a/x.db")
    with running(tmp_path, storage={"path": link}) as (node, sink):
        node.await_delivered(20)
        pid = node.pids()["supervisor"]
        new = tmp_path / "new.db"
        new.symlink_to(tmp_path / "b/x.db")
        new.rename(link)
        wait_until((tmp_path / "b/x.db").exists, 60, "the other one is made")
        node.await_running("sender-1")
        node.await_delivered(20)
        assert node.pids()["supervisor"] == pid
        with Node(tmp_path / "two", storage={"path": tmp_path / "b/x.db"}) as two:
            assert f"with pid {pid}\n" in told(two)
        node.stop()
        assert node.processes() == []
        assert sink.differing_ids() == set()
