"""What is asked all the time costs the same at a thousand and at a hundred million rows (P5)."""

import contextlib
import itertools
import re
import shutil
from dataclasses import replace

import pytest
from old_database import LATER, NOW, age, metered
from storage_fixtures import (
    BUSY,
    DELIVERED,
    POLICY,
    POLICY_ONCE,
    REFUSED,
    ROOM,
    RULES,
    SILENT,
    UNSENT,
    WHO,
    audit,
    execute,
    readings,
    rows,
    set_sink,
)

from sensor_node.core.clock import Moment
from sensor_node.core.model import Dropped, VitalSigns
from sensor_node.storage import repository
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.journal import (
    clock_steps,
    events,
    key_value,
    log_hold,
    runs,
    samples,
)
from sensor_node.storage.queue import (
    batch_ranges,
    capture,
    due,
    ledger,
    lookup,
    message_ids,
    orphans,
    rate_limit,
    retention,
    settling,
    sink_row,
    streams,
    suspects,
    vital_signs,
)
from sensor_node.storage.repair import check, salvage
from sensor_node.storage.repository import SensorDataSQLRepository

MODULES = (
    *(capture, clock_steps, due, events, ledger, log_hold, lookup, key_value, orphans, rate_limit),
    repository,
    *(
        retention,
        runs,
        samples,
        settling,
        salvage,
        sink_row,
        streams,
        suspects,
        batch_ranges,
        message_ids,
        vital_signs,
    ),
)
STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": text
    for module in MODULES
    for name, text in vars(module).items()
    if isinstance(text, str) and re.match(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)", text)
}
# One row, or as many as there are statuses, streams, sensors, reasons or claims; events have their
# bound.
SMALL = (
    *("sink", "tally", "stream", "dropped", "sqlite_sequence", "event", "sample", "sensor"),
    "suspect",
    "CONSTANT",
)
SMALL_INDEXES = ("batch_sending_again",)
# They want the first row that there is. That they get no further is counted below.
FIRST_ROW = {"message_ids.HIGHEST_CLAIMED_ID", "retention.FIRST_FAILED", "retention.FIRST_PARKED"}
# The one long read, and people's own; what `status` asks is bounded by its LIMIT.
LONG = {
    *("ledger.AUDIT_RANGES", "lookup.RECENT", "lookup.OF_RANGES", "lookup.STUCK"),
    "lookup.REQUESTS",
}
# They sort as many rows as one stream has, or as came within some seconds.
SORTS = {"streams.OF_NAME", "vital_signs.UNNOTED"}
# What no process repeats: people's, and what is done once to a database or an event of the clock.
NOT_REPEATED = {
    *LONG,
    *("ledger.AUDIT_PENDING", "lookup.PENDING", "lookup.ONE", "events.SINCE", "samples.UP_TO"),
    *("streams.OF_NAME", "salvage.NUMBERS", "vital_signs.READ", "vital_signs.SET_NOTED_ID"),
    *("clock_steps.LAST_BEFORE_BACK", "clock_steps.LAST_BEFORE_FORWARD", "due.WAIT_NO_LONGER"),
    *("clock_steps.FIRST_AFTER_BACK",),
    *("suspects.SINCE_BY_THE_NEW_CLOCK", "suspects.WAITING"),
    *("sink_row.SINCE_BY_THE_NEW_CLOCK", "sink_row.WAIT_NO_LONGER"),
}
# Even the small one has as many events of a kind as there may be.
SMALL_SIZE, LARGE_SIZE = 500, 5000


def plan(repository, sql):
    values = dict.fromkeys(re.findall(r":(\w+)", sql), 1) or (1,) * sql.count("?")
    with contextlib.closing(open_reader(repository.path)) as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]


def reads_all_of(step):
    """The table that a step of a plan reads from end to end, itself or by an index of it; or ""."""
    scanned = re.match(r"SCAN (\S+)(?: USING (?:COVERING )?INDEX (\S+))?", step)
    if not scanned or scanned[1] in SMALL or scanned[2] in SMALL_INDEXES:
        return ""
    return scanned[1]


# Plans


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - FIRST_ROW - LONG))
def test_a_statement_of_every_day_reads_no_table_from_end_to_end(repository, name):
    for step in plan(repository, STATEMENTS[name]):
        assert not reads_all_of(step), step
        assert "AUTOMATIC" not in step
        assert "TEMP B-TREE" not in step or name in SORTS, step


def test_no_statement_is_planned_anew_for_each_value(repository):
    """SQLite does so where an index has `x = 1` as its condition and a statement `x = :value`."""
    indexes = rows(repository, "SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql NOTNULL")
    conditions = " ".join(sql.partition("WHERE")[2] for (sql,) in indexes)
    fixed = set(re.findall(r"(\w+) = \d", conditions))
    assert fixed, "the expression still finds some"
    for name, text in STATEMENTS.items():
        compared = set(re.findall(r"(\w+) = :", text.partition("WHERE")[2]))
        assert not compared & fixed, name


@pytest.mark.parametrize("name", sorted(FIRST_ROW | LONG))
def test_a_longer_read_goes_by_ids_and_sorts_nothing(repository, name):
    """SQLite once chose to read all messages for each batch."""
    for step in plan(repository, STATEMENTS[name]):
        assert "AUTOMATIC" not in step
        assert "TEMP B-TREE" not in step
        assert step != "SCAN message" or name == "lookup.RECENT"


@pytest.mark.parametrize(
    ("step", "table"),
    [
        ("SCAN batch", "batch"),
        ("SCAN batch USING INDEX batch_failed", "batch"),
        ("SCAN message USING COVERING INDEX of_something", "message"),
        ("SCAN sink", ""),
        ("SEARCH batch USING INDEX batch_due (fate_unknown=?)", ""),
    ],
)
def test_a_plan_that_reads_a_whole_index_is_known_as_one(step, table):
    assert reads_all_of(step) == table


# Steps: what each method costs in a database that has lived long


def capture_some(repository):
    repository.begin_run(WHO, NOW, "a run")
    return repository.capture(readings(9), [Dropped("late", 1, 1, 2)], NOW, ROOM)


def watch_sensors(repository):
    """One of two goes, and the other has given readings since its row was written."""
    repository.watch_sensors({"temperature": 10.0, "gone": 10.0}, 1.0)
    repository.begin_run(WHO, NOW, "a run")
    repository.capture(readings(9), [], NOW, ROOM, [VitalSigns("temperature", 1.0)])
    repository.watch_sensors({"temperature": 10.0}, 2.0)


def claim(repository, now=NOW):
    return repository.claim_fresh("sender-1", POLICY, now, 3)


def claim_due(repository, policy):
    return repository.claim_due("retrier", policy, LATER, 1)


def claim_probe(repository, policy):
    """With nothing that is PENDING."""
    while claim(repository):
        pass
    set_sink(repository, state="DOWN", next_probe_at=NOW)
    return repository.claim_probe("retrier", policy, NOW, 100)


def claim_of_kind(repository, turn):
    """A message of a sensor that is suspect, or is not, behind others."""
    while claim(repository):
        pass
    for name in ("pressure", "temperature", "pressure"):
        execute(
            repository,
            "INSERT INTO message(name, value, timestamp_us) VALUES (:name, 1.0, 1)",
            name=name,
        )
    execute(repository, "UPDATE suspect SET isolated = 0")
    set_sink(repository, state="DOWN", next_probe_at=NOW, epoch=0, failures=turn)
    assert repository.claim_probe("retrier", POLICY, NOW, 100).size == 1


def fail_three_probes(repository):
    """They are due before all else, and can be joined."""
    while claim(repository):
        pass
    for _ in range(3):
        execute(
            repository,
            "INSERT INTO message(name, value, timestamp_us) VALUES ('temperature', 1.0, 1)",
        )
        set_sink(repository, state="DOWN", next_probe_at=NOW, epoch=0, failures=0)
        probe = repository.claim_probe("retrier", POLICY, NOW, 100)
        assert repository.settle(probe, BUSY, RULES, NOW)
        execute(
            repository,
            "UPDATE batch SET next_attempt_at = 1.0 WHERE first_id = :first",
            first=probe.first_id,
        )


def claim_joined(repository):
    fail_three_probes(repository)
    set_sink(repository, state="UP")
    execute(repository, "UPDATE suspect SET isolated = 0")
    assert repository.claim_left_over("sender-1", POLICY, LATER, 3).size == 3


def become_throttled(repository):
    fail_three_probes(repository)
    execute(repository, "UPDATE suspect SET isolated = 0")
    set_sink(repository, epoch=0, failures=1, futile=1)
    batch = repository.claim_probe("retrier", POLICY, LATER, 3)
    assert batch.size == 3
    assert repository.settle(batch, DELIVERED, RULES, LATER)
    assert rows(repository, "SELECT throttled FROM sink") == [(1,)]


def claim_lone(repository):
    set_sink(repository, epoch=9)
    return repository.claim_fresh("sender-1", POLICY, NOW, 1)


def reclaim(repository):
    for first_id, _, owner in repository.claims():
        assert repository.reclaim(first_id, owner, NOW, at_most_once=False)


def settle_and_claim(repository, outcome=DELIVERED):
    return repository.settle_and_claim(claim(repository), outcome, RULES, POLICY, NOW, 3)


def note_clock(repository):
    for hour in range(3):
        repository.note_clock(Moment(hour, NOW + 3600 * hour, 3600 * hour), "a boot")


def claim_isolated(repository):
    execute(repository, "UPDATE suspect SET next_probe_at = 0.0")
    claim = repository.claim_due("retrier", POLICY, LATER, 1)
    assert claim.size == 1
    return claim


def claim_among_isolated(repository):
    """The fresh ones begin with one of the sensor that is set apart."""
    while claim(repository):
        pass
    for name in ("pressure", "temperature", "pressure"):
        execute(
            repository,
            "INSERT INTO message(name, value, timestamp_us) VALUES (:name, 1.0, 1)",
            name=name,
        )
    assert repository.claim_fresh("sender-1", POLICY, NOW, 100).size == 1


def claim_due_among_isolated(repository):
    [(first,)] = rows(repository, "SELECT min(first_id) FROM batch WHERE status = 'FAILED'")
    execute(repository, "UPDATE message SET name = 'pressure' WHERE id = :id", id=first)
    assert repository.claim_due("retrier", POLICY, LATER, 1)


def let_in(repository):
    execute(repository, "DELETE FROM suspect")
    assert repository.let_in(NOW)


# Each method that a process calls again and again, in what takes it longest.
REPEATED = {
    "version": [lambda node: node.version()],
    "capture": [capture_some],
    "record_event": [
        lambda node: node.record_event(NOW, "sink down", ""),
        lambda node: node.record_event(NOW, "process died", "sender-1"),
    ],
    "log_is_held": [lambda node: node.log_is_held(0)],
    "log_hold": [lambda node: node.log_hold()],
    "watch_sensors": [watch_sensors],
    "backlog": [lambda node: node.backlog(NOW)],
    "claim_fresh": [
        claim,
        lambda node: node.claim_fresh("sender-1", replace(POLICY, max_rate=1.0), NOW, 3),
        claim_among_isolated,
    ],
    "claim_due": [
        lambda node: claim_due(node, POLICY),
        lambda node: claim_due(node, POLICY_ONCE),
        claim_isolated,
        claim_due_among_isolated,
    ],
    "claim_left_over": [
        lambda node: node.claim_left_over("sender-1", POLICY, LATER, 1),
        lambda node: node.claim_left_over("sender-1", POLICY_ONCE, LATER, 1),
        claim_joined,
    ],
    "let_in": [let_in, lambda node: node.let_in(NOW)],
    "claim_probe": [
        lambda node: claim_probe(node, POLICY),
        lambda node: claim_probe(node, POLICY_ONCE),
        lambda node: claim_of_kind(node, 1),
        lambda node: claim_of_kind(node, 2),
    ],
    "read_claim": [lambda node: node.read_claim(claim(node))],
    "settle": [
        lambda node: node.settle(claim(node), DELIVERED, RULES, NOW),
        lambda node: node.settle(claim(node), REFUSED, RULES, NOW),
        lambda node: node.settle(claim(node), SILENT, RULES, NOW),
        lambda node: node.settle(claim(node), UNSENT, RULES, NOW),
        lambda node: node.settle(claim_isolated(node), UNSENT, RULES, NOW),
        lambda node: node.settle(claim_probe(node, POLICY), BUSY, RULES, NOW),
        lambda node: node.settle(claim_probe(node, POLICY), DELIVERED, RULES, NOW),
        lambda node: node.settle(claim_isolated(node), BUSY, RULES, NOW),
        lambda node: node.settle(claim_isolated(node), DELIVERED, RULES, NOW),
        lambda node: node.settle(claim_lone(node), BUSY, RULES, NOW),
        become_throttled,
    ],
    "settle_and_claim": [settle_and_claim, lambda node: settle_and_claim(node, REFUSED)],
    "due_in": [
        lambda node: node.due_in(POLICY_ONCE, NOW),
        lambda node: node.due_in(POLICY_ONCE, 1.0),
        lambda node: node.due_in(POLICY_ONCE, LATER),
    ],
    "claims": [lambda node: node.claims()],
    "reclaim": [reclaim],
    "park_doubtful": [lambda node: node.park_doubtful(NOW)],
    "probe_now": [lambda node: node.probe_now(NOW)],
    "space": [lambda node: node.space(ROOM)],
    "wal_bytes": [lambda node: node.wal_bytes()],
    "purge": [lambda node: node.purge(0, 0.0, NOW), lambda node: node.purge(0, None, NOW)],
    "evict_oldest": [lambda node: node.evict_oldest("max_size", NOW)],
    "evict_parked": [lambda node: node.evict_parked("parked", NOW)],
    "evict_older_than": [lambda node: node.evict_older_than(10**12, NOW)],
    "note_clock": [note_clock],
    "sample": [lambda node: node.sample(NOW)],
    "counts": [lambda node: node.counts()],
    # Once a run, which begins as soon with any database.
    "begin_run": [
        lambda node: node.begin_run(WHO, NOW, "a run"),
        lambda node: node.begin_run(WHO, NOW, "another"),
    ],
    "end_run": [lambda node: node.end_run(NOW)],
    "next_parked": [lambda node: node.next_parked("DEAD", 0)],
    "requeue": [lambda node: node.requeue(SMALL_SIZE * 3, SMALL_SIZE * 3, NOW)],
}
# Bounded by seconds, by the WAL, or by what a person brings.
OTHERS = {"check_for_damage", "checkpoint", "salvage", "close"}
ACTS = [(name, act) for name, acts in REPEATED.items() for act in acts]


@pytest.fixture(scope="module")
def aged(tmp_path_factory):
    """Databases that have lived long, by their size."""
    files = {}
    for size in (SMALL_SIZE, LARGE_SIZE):
        path = tmp_path_factory.mktemp("aged") / "telemetry.db"
        with contextlib.closing(SensorDataSQLRepository(path)) as repository:
            repository.begin_run(WHO, 0.0, "a run")
            age(repository, size)
            repository.checkpoint(truncate=True)
        files[size] = path
    return files


@pytest.fixture
def open_aged(aged, place, monkeypatch):
    """Opens a copy of the one of that size."""
    monkeypatch.setattr(suspects, "LET_IN_CHUNK", SMALL_SIZE // 2)
    numbers = itertools.count()
    with contextlib.ExitStack() as opened:

        def open_copy(size):
            path = place / f"{size}-{next(numbers)}.db"
            shutil.copyfile(aged[size], path)
            return opened.enter_context(contextlib.closing(SensorDataSQLRepository(path)))

        yield open_copy


def test_a_database_made_old_is_like_one_that_grew_old(open_aged):
    node = open_aged(SMALL_SIZE)
    assert audit(node) == []
    check.check_for_damage(node._database.connection, 60.0)
    found = dict(rows(node, "SELECT status, count(*) FROM batch GROUP BY 1"))
    assert found.keys() == {*ledger.STATUSES} - {"EVICTED"}


def test_every_method_is_one_that_is_repeated_or_one_that_is_not():
    methods = {name for name in vars(SensorDataSQLRepository) if not name.startswith("_")}
    assert methods == REPEATED.keys() | OTHERS


@pytest.mark.parametrize(("name", "act"), ACTS, ids=[name for name, _ in ACTS])
def test_what_is_repeated_takes_as_many_steps_in_a_large_database(open_aged, name, act):
    steps = []
    for size in (SMALL_SIZE, LARGE_SIZE):
        meter = metered(open_aged(size))
        act(meter.repository)
        steps.append(meter.steps())
    few, many = steps
    assert many <= few + 100, [(sql, n) for sql, n in meter.executions if n > 100]


def test_each_statement_is_among_those_whose_steps_are_counted(open_aged):
    seen = set()
    for _, act in ACTS:
        meter = metered(open_aged(SMALL_SIZE))
        act(meter.repository)
        seen |= {sql for sql, _ in meter.executions}
    others = {name for name, sql in STATEMENTS.items() if sql not in seen}
    # Adding one row costs the same everywhere.
    assert {name for name in others if "VALUES" not in STATEMENTS[name]} == NOT_REPEATED


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_a_clock_that_was_set_is_looked_for_in_the_newest_readings_only(
    open_aged, monkeypatch, seconds
):
    """However many of the others are still to be delivered."""
    monkeypatch.setattr(clock_steps, "MOST_AFTER", 100)
    meter = metered(open_aged(LARGE_SIZE))
    # The readings are from long before, or, as the clock goes forward, from long after it.
    wall = NOW if seconds < 0 else -NOW
    meter.repository.note_clock(Moment(0.0, wall, 0.0), "a boot")
    meter.repository.note_clock(Moment(1.0, wall + 1.0 + seconds, 1.0), "a boot")
    wanted = (clock_steps.LAST_BEFORE_BACK, clock_steps.LAST_BEFORE_FORWARD)
    [steps] = [steps for sql, steps in meter.executions if sql in wanted]
    assert 100 < steps < 1500


def test_a_claim_is_found_however_many_batches_lie_below_it(open_aged):
    """The last claim is known to be the last: nothing is read to find that there is no other."""
    node = open_aged(LARGE_SIZE)
    found = [owner for _, _, owner in node.claims()]
    assert found == ["sender-2", "sender-1", "retrier"]
