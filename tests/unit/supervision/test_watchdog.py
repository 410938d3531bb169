"""The watchdog is fed while every process moves, and not by a supervisor that only turns."""

import signal

import pytest

from sensor_node.config.loader import load_config
from sensor_node.supervision import hangs
from sensor_node.supervision.lock_keeper import LockKeeper
from sensor_node.supervision.supervisor import Supervisor


class FedWatchdog:
    """A notifier that counts."""

    def __init__(self):
        self.fed = 0

    def feed_watchdog(self, now):
        self.fed += 1

    def send(self, *lines):
        """What is said does not matter here."""


class Fork:
    """Stands for a child's process; takes signals and does nothing with them."""

    pid = 4_194_305  # higher than the kernel gives
    exitcode = None

    def __init__(self):
        self.sentinel = -1


@pytest.fixture
def watchdog():
    return FedWatchdog()


@pytest.fixture
def supervisor(tmp_path, watchdog, monkeypatch):
    file = tmp_path / "config.ini"
    file.write_text("[sensor:room]\n")
    config = load_config(file)
    config.runtime_directory.mkdir()
    lock_keeper = LockKeeper(config)
    supervisor = Supervisor(config, lock_keeper, watchdog)
    for child in supervisor._children:
        child._process = Fork()
        monkeypatch.setattr(child, "signal", lambda number: None)
    yield supervisor
    supervisor._wake_reader.close()
    supervisor._wake_writer.close()
    lock_keeper.close()


def turn(supervisor, verdicts, monkeypatch):
    """One turn in which the children are judged so."""
    each = iter(verdicts)
    monkeypatch.setattr(hangs, "judge", lambda *anything: next(each))
    supervisor._end_hangs(1000.0)
    supervisor._announce(1000.0)


WELL = [hangs.Liveness.WELL] * 5


def test_it_is_fed_while_all_are_well(supervisor, watchdog, monkeypatch) -> None:
    turn(supervisor, WELL, monkeypatch)
    turn(supervisor, WELL, monkeypatch)
    assert watchdog.fed == 2


@pytest.mark.parametrize("verdict", [hangs.Liveness.HOLDS_LOCK, hangs.Liveness.BLOCKS_LOCK])
def test_who_is_killed_for_the_lock_is_killed_and_told_of_once(
    supervisor, monkeypatch, caplog, verdict
) -> None:
    """It takes some turns to be gone."""
    signals = []
    monkeypatch.setattr(supervisor._children[0], "signal", signals.append)
    with caplog.at_level("ERROR", logger="sensor_node"):
        for _ in range(3):
            turn(supervisor, [verdict, *WELL[1:]], monkeypatch)
    assert signals == [signal.SIGKILL]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "verdict", [one for one in hangs.Liveness if one is not hangs.Liveness.WELL]
)
@pytest.mark.parametrize("place", range(5))
def test_not_while_one_hangs_that_cannot_be_ended(
    supervisor, watchdog, monkeypatch, verdict, place
) -> None:
    turn(supervisor, [*WELL[:place], verdict, *WELL[place + 1 :]], monkeypatch)
    assert watchdog.fed == 0
    turn(supervisor, WELL, monkeypatch)
    assert watchdog.fed == 1
