"""A claim's owner is one process for ever: no clock, no reboot and no reused pid confuses it."""

import os
import signal
import time

import pytest

from sensor_node.processes import owner

BOOT = "11111111-2222-3333-4444-555555555555"
OTHER_BOOT = "99999999-2222-3333-4444-555555555555"


class FakeProc:
    """A /proc of our own making."""

    def __init__(self, directory):
        self.directory = directory
        self.boot(BOOT)

    def boot(self, boot_id):
        file = self.directory / "sys/kernel/random/boot_id"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{boot_id}\n")

    def process(self, pid, ticks, name="python3", state="S"):
        # Fields 4 to 21 differ from each other and from field 22, the start time.
        between = " ".join(str(field) for field in range(4, 22))
        (self.directory / str(pid)).mkdir(exist_ok=True)
        (self.directory / str(pid) / "stat").write_bytes(
            b"%d (%s) %s %s %d 23 24\n"
            % (pid, os.fsencode(name), state.encode(), between.encode(), ticks)
        )


@pytest.fixture
def proc(tmp_path):
    return FakeProc(tmp_path)


def alive(proc, text=f"sender:{BOOT}:812:4711"):
    return owner.is_alive(text, proc.directory)


def test_the_process_that_it_names_is_alive(proc) -> None:
    proc.process(812, ticks=4711)
    assert alive(proc)


def test_a_process_that_is_gone_is_dead(proc) -> None:
    assert not alive(proc)


def test_another_process_with_the_same_pid_is_not_it(proc) -> None:
    proc.process(812, ticks=4712)
    assert not alive(proc)


def test_after_a_reboot_it_is_dead_even_if_pid_and_ticks_agree(proc) -> None:
    proc.process(812, ticks=4711)
    proc.boot(OTHER_BOOT)
    assert not alive(proc)


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_process_that_only_waits_to_be_reaped_is_dead(proc, state) -> None:
    proc.process(812, ticks=4711, state=state)
    assert not alive(proc)


@pytest.mark.parametrize("state", ["R", "S", "D", "T", "t", "I"])
def test_a_process_that_sleeps_or_is_stopped_is_alive(proc, state) -> None:
    proc.process(812, ticks=4711, state=state)
    assert alive(proc)


@pytest.mark.parametrize(
    "name", ["a b", "a) S 1 2 3", "((", "))", "", ") Z 1 (", b"\xff\xfe", "tab\there", "line\nend"]
)
def test_whatever_a_process_is_called_its_start_time_is_found(proc, name) -> None:
    proc.process(812, ticks=4711, name=name)
    assert owner.start_ticks(812, proc.directory) == 4711


@pytest.mark.parametrize("state", ["R", "S", "D", "T", "t", "Z"])
def test_what_keeps_a_process_is_told_apart(proc, state) -> None:
    proc.process(812, ticks=4711, state=state)
    assert owner.is_stopped(812, proc.directory) == (state in "Tt")
    assert owner.waits_for_disk(812, proc.directory) == (state == "D")


def test_this_process_is_alive_and_knows_itself() -> None:
    identity = owner.own_owner_id("sender")
    role, boot, pid, ticks = identity.split(":")
    assert (role, int(pid)) == ("sender", os.getpid())
    assert (boot, int(ticks)) == (owner.boot_id(), owner.start_ticks(os.getpid()))
    assert owner.is_alive(identity)


def test_its_identity_does_not_move_with_the_wall_clock(monkeypatch) -> None:
    before = owner.own_owner_id("sender")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert owner.own_owner_id("sender") == before
    assert owner.is_alive(before)


def test_a_real_zombie_is_dead_before_it_is_reaped() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    identity = f"sender:{owner.boot_id()}:{pid}:{owner.start_ticks(pid)}"
    assert owner.is_alive(identity)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not owner.is_alive(identity)
    os.waitpid(pid, 0)
    assert not owner.is_alive(identity)


@pytest.mark.parametrize("text", ["", "sender", "{0}:x:1", "{0}:1:x:y", "{0}:{1}:None", "{0}:9²:1"])
def test_who_has_a_damaged_name_is_nobody(text) -> None:
    assert not owner.is_alive(f"sender:{text.format(owner.boot_id(), os.getpid())}")
