"""One appliance a database: the lock that children share, and a pid file that names one process."""

import fcntl
import os
import signal
import subprocess
from types import SimpleNamespace

import pytest

from sensor_node.control import lifecycle
from sensor_node.core.errors import SensorNodeError
from sensor_node.processes import owner
from sensor_node.supervision.pidfile import (
    ApplianceLock,
    has_lock,
    is_appliance,
    lock_file,
    pid_file,
    remove_pid_file,
    running_pid,
    write_pid_file,
)


@pytest.fixture
def lock(config):
    """Another open file each time, as another process would have."""
    made = []

    def open_lock():
        made.append(ApplianceLock(config))
        return made[-1]

    yield open_lock
    for each in made:
        os.close(each.fd)


class TestTheLock:
    def test_is_for_one_at_a_time(self, lock) -> None:
        first, second = lock(), lock()
        assert first.take()
        assert not second.take()
        fcntl.flock(first.fd, fcntl.LOCK_UN)
        assert second.take()

    def test_is_not_free_while_a_child_of_the_holder_lives(self, lock) -> None:
        first, second = lock(), lock()
        first.take()
        pid = os.fork()
        if pid == 0:
            signal.pause()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, first.fd)  # the supervisor itself is gone
        os.close(nothing)
        assert not second.take()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert second.take()

    def test_that_cannot_be_opened_is_told_in_one_line(self, config) -> None:
        config.state_directory.rmdir()
        with pytest.raises(SensorNodeError, match="cannot be opened: No such file"):
            ApplianceLock(config)

    def test_outlives_its_appliance_as_a_file(self, lock) -> None:
        first = lock()
        first.take()
        assert first.file.exists()


class TestThePidFile:
    def test_has_the_pid_on_its_first_line(self, config) -> None:
        write_pid_file(config)
        assert pid_file(config.runtime_directory).read_text().splitlines()[0] == str(os.getpid())

    def test_leads_to_the_process_that_wrote_it(self, config) -> None:
        assert running_pid(config.runtime_directory) is None
        write_pid_file(config)
        assert running_pid(config.runtime_directory) == os.getpid()
        remove_pid_file(config)
        assert running_pid(config.runtime_directory) is None

    def test_leads_nowhere_once_the_process_is_gone_and_its_pid_anothers(self, config) -> None:
        write_pid_file(config)
        identity = owner.own_owner_id("supervisor")
        role, boot, pid, ticks = identity.split(":")
        for other in (
            f"{role}:{boot}:{pid}:{int(ticks) + 1}",
            f"{role}:another-boot:{pid}:{ticks}",
            f"{role}:{boot}:{2**22 + 1}:{ticks}",
        ):
            pid_file(config.runtime_directory).write_text(f"{pid}\n{other}\n")
            assert running_pid(config.runtime_directory) is None, other

    @pytest.mark.parametrize(
        "content", [b"", b"\n", b"812", b"812\n", b"a b c d", b"x\ny\n", b"\xff\xfe\xff", b"1\na:b"]
    )
    def test_that_is_garbage_leads_nowhere(self, config, content) -> None:
        pid_file(config.runtime_directory).write_bytes(content)
        assert running_pid(config.runtime_directory) is None

    def test_can_be_removed_twice(self, config) -> None:
        write_pid_file(config)
        remove_pid_file(config)
        remove_pid_file(config)

    def test_that_cannot_be_written_is_told_in_one_line(self, config) -> None:
        pid_file(config.runtime_directory).mkdir()
        with pytest.raises(SensorNodeError, match=r"sensor-node\.pid: cannot be written"):
            write_pid_file(config)


@pytest.mark.parametrize("text", ["", "a", "a:b:c", "a:b:c:d:e", "supervisor:other-boot:1:1"])
def test_what_is_no_living_process_is_no_appliance(text) -> None:
    assert not is_appliance(text)


class TestASignal:
    def test_is_for_a_process_that_has_the_lock_open(self, config, lock) -> None:
        assert not has_lock(config, os.getpid()), "there is no lock yet"
        lock()
        assert has_lock(config, os.getpid())

    @pytest.mark.parametrize("pid", [1, -1, 0, 2**22 + 1])
    def test_is_for_nobody_else(self, config, lock, pid) -> None:
        lock()
        assert not has_lock(config, pid) or os.geteuid()

    def test_at_the_end_of_a_stop_is_not_for_those_that_a_report_names(
        self, config, lock, monkeypatch
    ) -> None:
        lock()
        with subprocess.Popen(["sleep", "60"]) as stranger, subprocess.Popen(["true"]) as last:
            last.wait()
            children = [
                SimpleNamespace(pid=pid, owner=owner.owner_id_of("a", pid))
                for pid in (stranger.pid, os.getpid())
            ]
            report = SimpleNamespace(processes=children)
            monkeypatch.setattr(lifecycle, "read_report", lambda directory: report)
            monkeypatch.setattr(signal, "pidfd_send_signal", lambda *arguments: None)
            killed = []
            monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(pid))
            lifecycle._kill_all(config, -1)
            monkeypatch.undo()
            stranger.kill()
        assert killed == [os.getpid()], "who has the lock is ours"


class TestALink:
    def test_in_the_place_of_the_pid_file_is_not_followed(self, config, tmp_path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_text(f"{os.getpid()}\n{owner.own_owner_id('supervisor')}\n")
        before = elsewhere.read_text()
        pid_file(config.runtime_directory).symlink_to(elsewhere)
        assert running_pid(config.runtime_directory) is None
        with pytest.raises(SensorNodeError, match="cannot be written"):
            write_pid_file(config)
        assert elsewhere.read_text() == before

    def test_in_the_place_of_the_lock_is_not_followed(self, config, tmp_path, lock) -> None:
        elsewhere = tmp_path / "elsewhere"
        lock_file(config).symlink_to(elsewhere)
        with pytest.raises(SensorNodeError, match="cannot be opened"):
            lock()
        assert not elsewhere.exists()

    def test_to_the_database_leads_to_its_lock(self, config, tmp_path, lock) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        config.storage.path.symlink_to(elsewhere / "telemetry.db")
        assert lock_file(config) == elsewhere / "telemetry.db.appliance"
        first = lock()
        assert first.take()
        assert has_lock(config, os.getpid())
        assert list(config.state_directory.iterdir()) == [config.storage.path]

    def test_that_is_turned_away_leads_to_another_lock(self, config, tmp_path, lock) -> None:
        config.storage.path.symlink_to(tmp_path / "a.db")
        first = lock()
        assert first.is_in_place()
        config.storage.path.unlink()
        config.storage.path.symlink_to(tmp_path / "b.db")
        assert not first.is_in_place()
        assert first.is_at_home()


def test_a_lock_is_not_written_to(config, tmp_path, lock) -> None:
    """It may be another name of somebody's file."""
    precious = tmp_path / "precious"
    precious.write_text("content")
    os.link(precious, lock_file(config))
    assert lock().take()
    assert precious.read_text() == "content"


def test_the_number_of_one_process_with_the_identity_of_another_leads_nowhere(config) -> None:
    text = f"{os.getppid()}\n{owner.own_owner_id('supervisor')}\n"
    pid_file(config.runtime_directory).write_text(text)
    assert running_pid(config.runtime_directory) is None
