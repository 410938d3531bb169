"""A child's place: started by a real fork, watched, and started again later and later."""

import multiprocessing.connection
import os
import signal
import time

import pytest
from storage_fixtures import events
from waiting import wait_until

from sensor_node.config.loader import load_config
from sensor_node.core.errors import StorageUnavailable
from sensor_node.processes import owner
from sensor_node.storage.repository import SensorDataSQLRepository
from sensor_node.supervision import child as child_module
from sensor_node.supervision import worker
from sensor_node.supervision.child import MOST_PENDING_EVENTS, SOUND_LIFE_SECONDS, Child, ExitStatus
from sensor_node.supervision.lock_keeper import LockKeeper
from sensor_node.supervision.pidfile import ApplianceLock
from sensor_node.supervision.roles import ROLES
from sensor_node.supervision.slots import make_slots
from sensor_node.supervision.states import ChildState
from sensor_node.supervision.supervisor import Supervisor
from sensor_node.supervision.systemd import Notifier
from sensor_node.supervision.worker import STOP_SIGNALS

PATIENCE_SECONDS = 30


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.ini").write_text("[sensor:room]\n")
    return load_config(tmp_path / "config.ini")


@pytest.fixture
def child(config, monkeypatch):
    """The place of a sender; what fills it does as `does` says with its birth."""
    [slot] = make_slots(1)
    child = Child("sender-1", ROLES["sender"], slot)
    monkeypatch.setattr(child_module, "work", live_on)
    yield child
    child.signal(signal.SIGKILL)
    if child.sentinel is not None:
        end_of(child)


def does(monkeypatch, work):
    monkeypatch.setattr(child_module, "work", work)


def live_on(spec):
    spec.slot.ready()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    signal.pause()


def start(child, config):
    child.start(config, time.monotonic(), [])


def end_of(child):
    """Wait for the process's end; how it was."""
    assert multiprocessing.connection.wait([child.sentinel], PATIENCE_SECONDS)
    return wait_until(child.reap, PATIENCE_SECONDS, "the child can be reaped")


def ready(child):
    wait_until(child.look, PATIENCE_SECONDS, "the child is ready")


class TestStarting:
    def test_makes_a_process_that_is_running_once_it_is_ready(self, child, config) -> None:
        assert (child.state, child.pid, child.sentinel) == (ChildState.STOPPED, None, None)
        start(child, config)
        assert child.state is ChildState.STARTING
        assert child.pid
        ready(child)
        assert child.state is ChildState.RUNNING
        assert not child.look()

    def test_forgets_what_the_slot_said_of_the_process_before(self, child, config) -> None:
        child.slot.ready()
        child.slot.leave_message("of the old one")
        child.slot.make_final()
        start(child, config)
        assert child.slot.heartbeat().message == ""
        assert not child.slot.is_final()

    def test_tells_the_child_all_that_it_must_know(self, child, config, monkeypatch) -> None:
        def tell(spec):
            spec.slot.leave_message(
                f"{spec.role.name} {spec.supervisor} {spec.inherited} {spec.pending_events}"
            )

        does(monkeypatch, tell)
        child.remember("process died", "sender-1 exited")
        child.start(config, time.monotonic(), [17])
        pending_events = "(('process died', 'sender-1 exited'),)"
        assert end_of(child).message == f"sender {os.getpid()} (17,) {pending_events}"
        child.start(config, time.monotonic(), [])
        assert end_of(child).message == f"sender {os.getpid()} () ()"

    def test_holds_stop_signals_back_until_the_child_can_take_them(
        self, child, config, monkeypatch
    ) -> None:
        def blocked(spec):
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            spec.slot.leave_message(str(set(STOP_SIGNALS) <= mask))

        does(monkeypatch, blocked)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        start(child, config)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
        assert end_of(child).message == "True"


class TestASystemWithoutRoomForOneMoreProcess:
    @pytest.fixture
    def no_room(self, monkeypatch):
        def fork(process):
            raise BlockingIOError(11, "Resource temporarily unavailable")

        with monkeypatch.context() as patch:
            patch.setattr(child_module.FORK.Process, "start", fork)
            yield

    def test_leaves_the_place_empty_and_the_news_for_later(self, child, config, no_room) -> None:
        child.remember("process died", "sender-1 exited")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        with pytest.raises(OSError, match="temporarily unavailable"):
            start(child, config)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
        assert (child.pid, child.sentinel, child.reap()) == (None, None, None)
        assert len(child._pending_events) == 1

    def test_is_asked_again_later_and_later(self, child) -> None:
        waits = []
        for _ in range(3):
            child.plan_another_start(100.0)
            waits.append(child.restart_at - 100.0)
        assert waits == [1, 2, 4]
        assert (child.restarts, child.state) == (0, ChildState.BACKOFF)

    def test_does_not_end_the_supervisor(self, config, no_room, tmp_path, caplog) -> None:
        config.state_directory.mkdir()
        lock_keeper = LockKeeper(config)
        supervisor = Supervisor(config, lock_keeper, Notifier())
        try:
            supervisor._start_due(100.0)
            supervisor._announce(100.0)
        finally:
            supervisor._wake_reader.close()
            supervisor._wake_writer.close()
            lock_keeper.close()
        assert {child.restart_at for child in supervisor._children} == {101.0}
        assert caplog.text.count("process_not_started name=") == 5


class TestADeath:
    def test_is_told_once(self, child, config) -> None:
        start(child, config)
        assert child.reap() is None
        child.signal(signal.SIGKILL)
        assert end_of(child).exit_code == -signal.SIGKILL
        assert child.reap() is None
        assert (child.pid, child.sentinel) == (None, None)

    @pytest.mark.parametrize(
        ("exit_code", "how"),
        [
            (0, "exited with status 0"),
            (78, "exited with status 78"),
            (-signal.SIGKILL, "was killed by SIGKILL"),
            (-signal.SIGSEGV, "was killed by SIGSEGV"),
            (-(signal.SIGRTMIN + 1), f"was killed by signal {signal.SIGRTMIN + 1}"),
        ],
    )
    def test_is_told_in_words(self, exit_code, how) -> None:
        assert ExitStatus(exit_code, was_ready=True, message="").how == how

    def test_comes_with_last_words_and_whether_it_was_ready(
        self, child, config, monkeypatch
    ) -> None:
        def confess(spec):
            spec.slot.leave_message("[sink] token_file: cannot be read")
            os._exit(78)

        does(monkeypatch, confess)
        start(child, config)
        exit_status = end_of(child)
        assert (exit_status.exit_code, exit_status.was_ready) == (78, False)
        assert exit_status.message == "[sink] token_file: cannot be read"

    def test_after_which_no_signal_is_sent_to_whoever_has_the_pid_now(
        self, child, config, monkeypatch
    ) -> None:
        start(child, config)
        child.signal(signal.SIGKILL)
        end_of(child)
        monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
        child.signal(signal.SIGTERM)


class TestStartingAgain:
    DEATH = ExitStatus(1, was_ready=True, message="")

    def test_is_at_once_after_a_sound_life(self, child, config) -> None:
        start(child, config)
        now = time.monotonic() + SOUND_LIFE_SECONDS
        child.plan_restart(self.DEATH, now)
        assert child.restart_at == now
        assert child.state is ChildState.BACKOFF

    def test_is_later_and_later_after_short_lives_for_ever(self, child) -> None:
        child._started = 1000.0
        waits = []
        for _ in range(9):
            child.plan_restart(self.DEATH, 1001.0)
            waits.append(child.restart_at - 1001.0)
        assert waits == [1, 2, 4, 8, 16, 30, 30, 30, 30]
        assert child.restarts == 9

    def test_tells_of_the_death_before_the_last_one(self, child, monkeypatch) -> None:
        told = []
        for at in (100.0, 200.0, 300.0):
            monkeypatch.setattr(time, "time", lambda at=at: at)
            child.plan_restart(self.DEATH, at)
            told.append(child.report().died_before)
        assert told == [0.0, 100.0, 200.0]

    def test_is_at_once_again_after_one_sound_life(self, child) -> None:
        for lived in (1.0, 1.0, SOUND_LIFE_SECONDS, 1.0):
            child._started = 1000.0
            child.plan_restart(self.DEATH, 1000.0 + lived)
        assert child.restart_at == 1000.0 + 1.0 + 1.0

    def test_with_a_new_configuration_is_at_once_and_counts_as_no_death(self, child) -> None:
        child.plan_replacement(50.0)
        assert (child.restart_at, child.restarts) == (50.0, 0)
        assert child.state is ChildState.BACKOFF

    def test_hands_the_next_one_the_news_of_the_death(self, child, config, monkeypatch) -> None:
        does(monkeypatch, lambda spec: spec.slot.leave_message(repr(spec.pending_events)))
        child.plan_restart(ExitStatus(-signal.SIGKILL, True, ""), 0.0)
        start(child, config)
        expected = (("process died", "sender-1 was killed by SIGKILL"),)
        assert end_of(child).message == repr(expected)

    def test_hands_over_no_more_news_than_a_few(self, child) -> None:
        for _ in range(1000):
            child.plan_restart(self.DEATH, 0.0)
        assert len(child._pending_events) == MOST_PENDING_EVENTS


class TestStopping:
    def test_asks_and_says_when_patience_ends(self, child, config) -> None:
        start(child, config)
        ready(child)
        child.ask_to_stop(100.0, timeout=7.0)
        assert (child.state, child.kill_at) == (ChildState.STOPPING, 107.0)
        assert end_of(child).exit_code == -signal.SIGTERM

    def test_patience_begins_anew_with_the_next_process(self, child, config) -> None:
        start(child, config)
        ready(child)
        child.ask_to_stop(100.0, timeout=7.0)
        child.aborted_at = 100.0
        child.killed = True
        end_of(child)
        start(child, config)
        assert (child.kill_at, child.aborted_at, child.killed) == (None, None, False)


class TestTheReport:
    def test_names_the_process_as_the_owner_of_its_claims(self, child, config) -> None:
        start(child, config)
        report = child.report()
        assert (report.name, report.role) == ("sender-1", "sender")
        assert owner.is_alive(report.owner)
        assert report.owner.split(":")[2] == str(report.pid)
        child.signal(signal.SIGKILL)
        end_of(child)
        assert not owner.is_alive(report.owner)

    def test_says_what_trouble_the_process_has_while_it_lives(self, child, config) -> None:
        start(child, config)
        child.slot.trouble("disk full")
        assert child.report().trouble == "disk full"
        assert child.report().trouble_since > 0
        child.signal(signal.SIGKILL)
        end_of(child)
        assert (child.report().trouble, child.report().trouble_since) == ("", 0.0)
        assert child.report().pid is None


def test_news_is_written_down_once_however_often_the_database_fails(
    config, child, monkeypatch
) -> None:
    """And no try leaves a file open."""
    config.state_directory.mkdir()
    spec = worker.ChildSpec(
        role=ROLES["sender"],
        config=config,
        slot=child.slot,
        supervisor=os.getpid(),
        inherited=(),
        pending_events=(),
        run_started=0.0,
        unclean=True,
        after_death=True,
    )
    record = SensorDataSQLRepository.record_event
    full = [False, True, True, True, False]

    def record_if_there_is_room(repository, now, kind, detail, **options):
        if full.pop(0):
            raise StorageUnavailable("disk full", "telemetry.db")
        record(repository, now, kind, detail, **options)

    monkeypatch.setattr(SensorDataSQLRepository, "record_event", record_if_there_is_room)
    pending_events = [("process died", "sender-1 exited"), ("process died", "sender-1 was killed")]
    lock = ApplianceLock(config)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(StorageUnavailable):
            worker._open_repository(spec, pending_events, power_safe=False)
    assert len(os.listdir("/proc/self/fd")) == before
    repository = worker._open_repository(spec, pending_events, power_safe=False)
    assert events(repository) == [
        ("process died", "sender-1 exited"),
        ("process died", "sender-1 was killed"),
    ]
    repository.close()
    lock.close()


def test_a_process_that_is_stopped_is_seen_to_be(child, config) -> None:
    assert not child.is_stopped()
    start(child, config)
    assert not child.is_stopped()
    child.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert child.is_stopped()
