"""sd_notify: whoever started us hears that we are ready, and that we still move."""

import contextlib
import os
import socket

import pytest

from sensor_node.supervision.systemd import Notifier


@pytest.fixture
def channel(tmp_path, monkeypatch):
    """A socket that listens as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def heard(channel):
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            messages.append(channel.recv(65_536).decode())
    return messages


def test_lines_arrive_together_as_one_message(channel) -> None:
    Notifier().send("READY=1", "MAINPID=812", "STATUS=running")
    assert heard(channel) == ["READY=1\nMAINPID=812\nSTATUS=running"]


def test_an_abstract_socket_works_too(monkeypatch) -> None:
    name = f"sensor-node-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        Notifier().send("READY=1")
        assert heard(listening) == ["READY=1"]


def test_children_and_their_commands_cannot_speak_for_us(channel, monkeypatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    Notifier()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


def test_nobody_listening_is_no_error(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().send("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Notifier().send("READY=1")


def test_a_listener_that_does_not_read_never_holds_the_supervisor_up(channel) -> None:
    notifier = Notifier()
    for _ in range(10_000):
        notifier.send("WATCHDOG=1")
    assert heard(channel)


def test_a_reload_is_announced_with_the_moment_that_it_began(channel) -> None:
    Notifier().reloading()
    [message] = heard(channel)
    first, second = message.splitlines()
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")


def test_the_watchdog_is_fed_three_times_a_period(channel, monkeypatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    notifier = Notifier()
    for tenth in range(90):
        notifier.feed_watchdog(1000.0 + tenth / 10)
    assert heard(channel) == ["WATCHDOG=1"] * 9


def test_more_time_is_asked_for_again_while_it_is_needed_but_not_at_each_turn(channel) -> None:
    notifier = Notifier()
    for second in range(25):
        notifier.ask_for_time(float(second), "busy")
    assert heard(channel) == ["EXTEND_TIMEOUT_USEC=30000000\nSTATUS=busy"] * 3


@pytest.mark.parametrize("period", [None, "", "0"])
def test_a_watchdog_that_is_not_there_is_not_fed(channel, monkeypatch, period) -> None:
    if period is None:
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    else:
        monkeypatch.setenv("WATCHDOG_USEC", period)
    notifier = Notifier()
    notifier.feed_watchdog(1000.0)
    assert heard(channel) == []
