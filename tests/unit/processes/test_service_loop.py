"""A worker's loop: step, wait, and end with what is in hand when asked to or left alone."""

import os
import queue
import signal

import pytest
from clocks import ManualClock

from sensor_node.core.errors import ConfigError, StorageUnavailable
from sensor_node.processes import service as service_module
from sensor_node.processes.service import LONGEST_WAIT_SECONDS, Wake, run_service

PARENT = os.getppid()
DISK_FULL = StorageUnavailable("disk full", "telemetry.db")


class Wakes:
    """A wake queue that sleeps by a clock of its own: it notes how long it was asked to wait."""

    def __init__(self, clock):
        self.clock = clock
        self.signals = []
        self.waits = []

    def get(self, timeout):
        self.waits.append(timeout)
        if not self.signals:
            self.clock.advance(timeout)
        return self.get_nowait()

    def get_nowait(self):
        if not self.signals:
            raise queue.Empty
        return self.signals.pop(0)


class Service:
    """Does what the plan says: an exception is raised, a number returned; then asks to end."""

    def __init__(self, wakes, *plan):
        self.wakes = wakes
        self.plan = list(plan)
        self.calls = []

    def step(self, now):
        self.calls.append("step")
        act = self.plan.pop(0) if self.plan else 0.0
        if not self.plan:
            self.wakes.signals.append(signal.SIGTERM)
        if isinstance(act, Exception):
            raise act
        return act

    def finish(self, now):
        self.calls.append("finish")


class Pulse:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def beat(self):
        self.told.append("beat")

    def ready(self):
        self.told.append("ready")

    def trouble(self, reason):
        self.told.append(f"trouble {reason}".rstrip())


class Loop:
    def __init__(self, *plan, opening=(), parent=PARENT):
        self.clock = ManualClock()
        self.wakes = Wakes(self.clock)
        self.pulse = Pulse()
        self.service = Service(self.wakes, *plan)
        self.opening = list(opening)
        self.opened = 0
        self.parent = parent

    def open(self):
        if self.opening:
            raise self.opening.pop(0)
        self.opened += 1
        return self.service

    def run(self):
        run_service(self.open, self.clock, self.pulse, self.wakes, self.parent)
        return self.service.calls


def test_sigterm_ends_it_after_the_step_in_hand() -> None:
    assert Loop(0.0).run() == ["step", "finish"]


def test_it_steps_until_then_and_opens_the_service_once() -> None:
    loop = Loop(0.0, 0.0, 0.0)
    assert loop.run() == ["step"] * 3 + ["finish"]
    assert loop.opened == 1


def test_it_waits_for_as_long_as_the_service_says_but_shows_that_it_lives() -> None:
    loop = Loop(0.25, 3600.0, 0.5)
    loop.run()
    assert loop.wakes.waits == [0.25, LONGEST_WAIT_SECONDS, 0.5]
    assert loop.pulse.told.count("beat") == 3


@pytest.mark.parametrize("delay", [0.0, -1.0])
def test_it_does_not_wait_when_there_is_more_to_do(delay) -> None:
    loop = Loop(delay, delay)
    loop.run()
    assert loop.wakes.waits == []


def test_other_wakes_end_the_wait_and_not_the_loop() -> None:
    loop = Loop(1.0, 1.0)
    loop.wakes.signals = [0, 0]
    assert loop.run() == ["step", "step", "finish"]


def test_sigterm_is_seen_behind_other_wakes() -> None:
    loop = Loop(1.0, 1.0)
    loop.wakes.signals = [0, signal.SIGTERM, 0]
    assert loop.run() == ["step", "finish"]


def test_it_ends_when_its_supervisor_is_gone(monkeypatch) -> None:
    loop = Loop(*[0.0] * 100)
    parents = iter([PARENT, PARENT, 1])
    monkeypatch.setattr(service_module.os, "getppid", lambda: next(parents))
    assert loop.run() == ["step", "step", "finish"]


def test_it_does_not_even_begin_if_its_supervisor_is_gone() -> None:
    loop = Loop(0.0, parent=PARENT + 1)
    assert loop.run() == []
    assert loop.opened == 0


class TestADatabaseThatCannotBeUsed:
    def test_is_no_reason_to_die(self) -> None:
        loop = Loop(DISK_FULL, DISK_FULL, 0.0)
        assert loop.run() == ["step"] * 3 + ["finish"]

    def test_is_tried_again_after_a_second(self) -> None:
        loop = Loop(DISK_FULL, DISK_FULL, 0.0)
        loop.run()
        assert loop.wakes.waits == [1.0, 1.0]

    def test_is_not_tried_again_because_others_use_theirs(self) -> None:
        loop = Loop(DISK_FULL, 0.0)
        loop.wakes.signals = [0, 0, 0]
        loop.run()
        assert loop.wakes.waits == [1.0, 1.0]

    def test_is_shown_with_its_reason_until_it_is_well(self) -> None:
        loop = Loop(DISK_FULL, 0.0)
        loop.run()
        shown = [told for told in loop.pulse.told if told.startswith("trouble")]
        assert shown == ["trouble disk full", "trouble"]

    def test_may_also_be_one_that_does_not_open(self) -> None:
        loop = Loop(0.0, opening=[DISK_FULL, DISK_FULL])
        assert loop.run() == ["step", "finish"]
        assert loop.wakes.waits[:2] == [1.0, 1.0]

    def test_does_not_hold_up_the_start_of_the_appliance(self) -> None:
        loop = Loop(0.0, opening=[DISK_FULL])
        loop.run()
        assert loop.pulse.told.index("ready") < loop.pulse.told.index("trouble")

    def test_is_one_log_line_a_minute(self, caplog) -> None:
        loop = Loop(*[DISK_FULL] * 50, 0.0)
        loop.run()
        assert [record.getMessage() for record in caplog.records] == [
            "storage_unavailable disk full: telemetry.db"
        ]

    def test_at_the_end_is_a_log_line_and_no_crash(self, caplog, monkeypatch) -> None:
        loop = Loop(0.0)

        def fail(now):
            raise DISK_FULL

        monkeypatch.setattr(loop.service, "finish", fail)
        loop.run()
        assert "storage_unavailable disk full" in caplog.text


def test_it_is_ready_once_its_service_is_open() -> None:
    loop = Loop(0.0, 0.0)
    loop.run()
    assert loop.pulse.told[:2] == ["beat", "ready"]


@pytest.mark.parametrize("error", [ConfigError("the database is newer"), ZeroDivisionError()])
def test_anything_else_ends_the_process(error) -> None:
    loop = Loop(0.0, opening=[error])
    with pytest.raises(type(error)):
        loop.run()
    loop = Loop(error)
    with pytest.raises(type(error)):
        loop.run()


def test_a_signal_handler_only_enqueues() -> None:
    """Event.set() in a handler can deadlock; a SimpleQueue is made for it."""
    before = signal.getsignal(signal.SIGTERM)
    wake = Wake()
    pid = os.fork()
    if pid == 0:
        try:
            service_module.prepare_process(wake)
            os.kill(os.getpid(), signal.SIGTERM)
            good = wake.get(timeout=30) == signal.SIGTERM
            ignored = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)]
            os._exit(0 if good and ignored == [signal.SIG_IGN] * 2 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert signal.getsignal(signal.SIGTERM) is before
