"""P1: who holds the write lock too long is ended, who waits for it never is."""

import time
from dataclasses import replace

import pytest

from sensor_node.storage.repository import SensorDataSQLRepository
from sensor_node.supervision.hangs import HOLD_SECONDS, STEP_SECONDS, Liveness, judge, step_limit
from sensor_node.supervision.roles import ROLES
from sensor_node.supervision.slots import Heartbeat, make_slots

NOW = 1000.0
WELL = Heartbeat(
    beat=NOW,
    waiting_since=None,
    holding_since=None,
    ready=True,
    checked=True,
    trouble="",
    trouble_since=0.0,
    message="",
)


class Observed:
    def __init__(self, stopped=False, slow_disk=False):
        self.is_stopped = lambda: stopped
        self.waits_for_disk = lambda: slow_disk


def verdict(heartbeat, limit=STEP_SECONDS, **suspect):
    return judge(heartbeat, NOW, limit, Observed(**suspect))


def test_a_child_that_moves_is_well() -> None:
    assert verdict(WELL) is Liveness.WELL


@pytest.mark.parametrize(
    ("held", "found"),
    [
        (0.0, Liveness.WELL),
        (HOLD_SECONDS, Liveness.WELL),
        (HOLD_SECONDS + 0.01, Liveness.HOLDS_LOCK),
        (10_000.0, Liveness.HOLDS_LOCK),
    ],
)
def test_the_lock_may_be_held_for_five_seconds(held, found) -> None:
    assert verdict(replace(WELL, holding_since=NOW - held)) is found


def test_a_beat_is_no_excuse_for_holding_the_lock() -> None:
    assert verdict(replace(WELL, beat=NOW, holding_since=NOW - 6)) is Liveness.HOLDS_LOCK


def test_capture_waits_for_another_process_at_most_five_seconds() -> None:
    assert HOLD_SECONDS == 5.0


def test_who_holds_it_for_the_disks_sake_is_not_killed() -> None:
    heartbeat = replace(WELL, holding_since=NOW - 100)
    assert verdict(heartbeat, slow_disk=True) is Liveness.WELL
    assert verdict(heartbeat, stopped=True) is Liveness.HOLDS_LOCK


def test_waiting_for_the_lock_is_no_fault_however_long() -> None:
    assert verdict(replace(WELL, beat=0.0, waiting_since=0.5)) is Liveness.WELL


@pytest.mark.parametrize(
    ("waited", "stopped", "found"),
    [
        (HOLD_SECONDS + 1, True, Liveness.BLOCKS_LOCK),
        (HOLD_SECONDS, True, Liveness.WELL),
        (HOLD_SECONDS + 1, False, Liveness.WELL),
    ],
)
def test_but_who_is_stopped_on_the_way_to_it_keeps_the_others_out(waited, stopped, found) -> None:
    assert verdict(replace(WELL, waiting_since=NOW - waited), stopped=stopped) is found


@pytest.mark.parametrize(
    ("silent", "found"),
    [
        (STEP_SECONDS, Liveness.WELL),
        (STEP_SECONDS + 0.01, Liveness.HANGS),
        (10_000, Liveness.HANGS),
    ],
)
def test_a_step_may_take_as_long_as_the_longest_legal_one(silent, found) -> None:
    assert verdict(replace(WELL, beat=NOW - silent)) is found


def test_nobody_looks_whether_a_child_is_stopped_while_all_is_well() -> None:
    well = [WELL, replace(WELL, beat=0.0)]
    well += [replace(WELL, waiting_since=NOW - 1), replace(WELL, holding_since=NOW - 1)]
    for heartbeat in well:
        judge(heartbeat, NOW, STEP_SECONDS, None)  # a look into /proc, each turn, would cost


@pytest.mark.parametrize("role", ["sender", "retrier"])
def test_a_request_comes_on_top_for_network_processes(role) -> None:
    assert step_limit(ROLES[role], request_timeout=600.0) == STEP_SECONDS + 600.0


@pytest.mark.parametrize("role", ["generator", "housekeeper"])
def test_a_slow_sink_gives_the_others_no_more_time(role) -> None:
    assert step_limit(ROLES[role], request_timeout=600.0) == STEP_SECONDS


@pytest.fixture
def slot():
    return make_slots(1)[0]


def late(slot):
    """What is thought, a minute later, of a child that is still where it is."""
    return judge(slot.heartbeat(), time.monotonic() + 60, STEP_SECONDS, Observed())


def test_a_migration_may_take_its_time(slot, tmp_path, monkeypatch) -> None:
    verdicts = []
    monkeypatch.setattr(
        "sensor_node.storage.engine.connection.migrate",
        lambda connection: verdicts.append(late(slot)),
    )
    monkeypatch.setattr("sensor_node.storage.engine.connection.TRY_TO_WRITE", "SELECT 1")
    SensorDataSQLRepository(tmp_path / "telemetry.db", slot).close()
    assert verdicts == [Liveness.WELL]


@pytest.mark.parametrize("truncate", [True, False])
def test_so_may_a_checkpoint_on_a_slow_card_but_no_transaction(slot, tmp_path, truncate) -> None:
    repository = SensorDataSQLRepository(tmp_path / "telemetry.db", slot)
    verdicts = {}
    repository._database.connection.set_trace_callback(
        lambda statement: verdicts.update({statement.partition("(")[0]: late(slot)})
    )
    repository.checkpoint(truncate=truncate)
    repository.record_event(0.0, "started", "")
    repository.close()
    assert verdicts["PRAGMA wal_checkpoint"] is Liveness.WELL
    assert verdicts["COMMIT"] is Liveness.HOLDS_LOCK
