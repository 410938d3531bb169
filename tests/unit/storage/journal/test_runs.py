"""What starts and stops leave in the history (P7), and the samples that rates come from."""

import contextlib
import itertools
from dataclasses import replace

from storage_fixtures import DELIVERED, POLICY, RULES, WHO, events, fill, rows, set_sink

from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.journal import samples

NOW = 1000.0
RUNS = itertools.count()
FIRST_RUN = "a run"  # of the fixture


def begin(repository, now=NOW, run=None, **who):
    """A run of its own, if it is not told which."""
    return repository.begin_run(replace(WHO, **who), now, run or f"run {next(RUNS)}")


def kinds(repository):
    return [kind for kind, _ in events(repository)]


def kept_samples(repository, now=1e9):
    with contextlib.closing(open_reader(repository.path)) as connection:
        return samples.up_to(connection, now)


def test_the_first_start_is_an_event_and_nothing_came_before_it(repository):
    assert events(repository) == [("started", "node edge-01")]


def test_a_start_after_an_orderly_stop_is_no_unclean_stop(repository):
    repository.end_run(10.0)
    begin(repository)
    assert kinds(repository) == ["started", "stopped", "started"]


def test_a_start_after_a_start_is_an_unclean_stop(repository):
    begin(repository)
    assert kinds(repository) == ["started", "unclean stop", "started"]


def test_a_generator_that_replaces_another_of_the_same_run_starts_nothing(repository):
    fill(repository, 1)
    assert begin(repository, run=FIRST_RUN) == 0
    assert kinds(repository) == ["started"]


def test_the_time_without_capture_is_an_event_with_its_range(repository):
    fill(repository, 3)  # the last at 2 s
    repository.end_run(10.0)
    begin(repository, 62.5)
    sql = "SELECT detail, first, last FROM event WHERE kind = 'not running'"
    assert rows(repository, sql) == [("no capture for 60.5 s", 2_000_000, 62_500_000)]


def test_a_pause_under_a_second_and_a_clock_set_back_are_no_gap(repository):
    fill(repository, 3)
    begin(repository, 2.9)
    begin(repository, 1.0)
    assert "not running" not in kinds(repository)


def test_where_the_last_reading_is_gone_the_gap_is_unknown(repository):
    fill(repository, 3)
    repository.evict_oldest("max_size", NOW)
    assert begin(repository, run=FIRST_RUN) is None
    begin(repository)
    assert "not running" not in kinds(repository)


def test_changed_settings_are_named_in_an_event(repository):
    begin(repository, settings={"sink.url": "a", "sink.timeout": "1"})
    begin(repository, settings={"sink.url": "b", "sink.timeout": "1", "log.level": "info"})
    begin(repository, settings={"sink.url": "b", "sink.timeout": "1", "log.level": "info"})
    assert events(repository, "configuration changed") == [
        "sink.timeout, sink.url",
        "log.level, sink.url",
    ]


def test_a_start_makes_the_probe_due_now(repository):
    set_sink(repository, state="DOWN", next_probe_at=NOW + 300)
    begin(repository, NOW)
    assert repository.backlog(0.0).sink.next_probe_at == NOW


def test_a_sample_is_kept_only_when_the_counts_have_changed(repository):
    fill(repository, 3)
    repository.sample(10.0)
    repository.sample(20.0)
    claim = repository.claim_fresh("sender", POLICY, NOW, 2)
    repository.settle(claim, DELIVERED, RULES, NOW)
    repository.sample(30.0)
    assert kept_samples(repository) == [(10.0, 3, 0), (30.0, 3, 2)]
    assert kept_samples(repository, 20.0) == [(10.0, 3, 0)]


def test_a_gap_that_an_event_tells_of_is_not_counted_once_more_by_a_replacement(repository):
    fill(repository, 3)  # the last at 2 s
    assert begin(repository, 62.5, run="the next") is None
    assert begin(repository, 70.0, run="the next") == 62_500_000
    assert kinds(repository).count("not running") == 1


def test_samples_are_kept_for_a_minute(repository):
    for at in range(0, 200, 10):
        fill(repository, 1)
        repository.sample(float(at))
    assert [at for at, *_ in kept_samples(repository)] == [float(at) for at in range(130, 200, 10)]


def test_samples_of_another_boot_are_forgotten_at_the_start_but_not_by_a_replacement(repository):
    repository.sample(10.0)
    begin(repository, run=FIRST_RUN)
    assert kept_samples(repository)
    begin(repository)
    assert kept_samples(repository) == []


def test_an_unclean_stop_is_noticed_however_soon_after_an_orderly_one(repository):
    begin(repository, NOW)
    repository.end_run(NOW + 1)
    begin(repository, NOW + 2)
    before = kinds(repository).count("unclean stop")
    begin(repository, NOW + 3)  # the run before was killed
    assert kinds(repository).count("unclean stop") == before + 1


def test_orderly_restarts_have_a_line_each_and_are_never_called_unclean(repository):
    repository.end_run(NOW)
    for second in range(1, 7, 2):
        begin(repository, NOW + second)
        repository.end_run(NOW + second + 1)
    assert kinds(repository) == ["started", "stopped"] * 4
