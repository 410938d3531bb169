"""A request's deadline: what passes is said, and nothing is left open."""

import os
import socket
import threading

import pytest
from waiting import wait_until

from sensor_node.delivery.deadline import DeadlineGuard, start_thread


@pytest.fixture
def guard():
    guard = DeadlineGuard()
    yield guard
    guard.close()


@pytest.fixture
def pair():
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def let_pass(guard) -> None:
    guard.arm(0.01)
    wait_until(lambda: guard.expired, what="the deadline has passed")


def test_a_thread_does_not_keep_its_process_from_ending() -> None:
    started = threading.Event()
    found = []

    def note() -> None:
        found.append(threading.current_thread().daemon)
        started.set()

    start_thread("some", note)
    assert started.wait(60)
    assert found == [True]


def test_after_the_deadline_no_time_is_left(guard) -> None:
    guard.arm(3600.0)
    assert 3590 < guard.left() <= 3600
    let_pass(guard)
    with pytest.raises(TimeoutError):
        guard.left()


def test_after_the_deadline_no_socket_is_watched(guard, pair) -> None:
    let_pass(guard)
    before = descriptors()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            guard.watch(pair[0])
    assert descriptors() == before


def test_at_the_deadline_the_watched_socket_is_shut_down(guard, pair) -> None:
    guard.arm(0.01)
    guard.watch(pair[0])
    pair[0].settimeout(60)
    assert pair[0].recv(1) == b""
    assert guard.disarm()


@pytest.mark.parametrize("end", [DeadlineGuard.close, DeadlineGuard.disarm])
def test_at_the_end_nothing_is_left_open(guard, pair, end) -> None:
    before = descriptors()
    guard.arm(3600.0)
    for _ in range(3):
        guard.watch(pair[0])
    end(guard)
    assert descriptors() == before
