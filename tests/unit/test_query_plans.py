"""What is asked all the time costs the same at a thousand and at a hundred million rows (P5)."""

import contextlib
import re

import pytest

from sensor_node.storage import (
    due,
    ledger,
    lookup,
    rate_limit,
    retention,
    runs,
    sink_row,
    streams,
    tiles,
)
from sensor_node.storage.connection import open_reader

MODULES = (due, ledger, lookup, rate_limit, retention, runs, sink_row, streams, tiles)
STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": text
    for module in MODULES
    for name, text in vars(module).items()
    if isinstance(text, str) and re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE)", text)
}
# One row, or as many as there are statuses, streams or reasons.
SMALL = ("sink", "tally", "stream", "dropped", "sqlite_sequence", "event", "sample", "CONSTANT")
# These read a table from one end and stop early, or are the one long read, or people's own.
ENDS_EARLY = {
    "tiles.CLAIMED",
    "tiles.SENDING",
    "retention.FIRST_PARKED",
    "lookup.IN_FLIGHT_NEAR_THE_TOP",
}
LONG = {"ledger.AUDIT_TILES", "lookup.RECENT", "lookup.OF_TILES"}


def plan(repository, sql):
    values = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
    with contextlib.closing(open_reader(repository.path)) as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - ENDS_EARLY - LONG))
def test_a_statement_of_every_day_reads_no_table_from_end_to_end(repository, name):
    for step in plan(repository, STATEMENTS[name]):
        scanned = re.match(r"SCAN (\S+)(?! USING INDEX)$", step)
        assert not scanned or scanned[1] in SMALL, step
        assert "AUTOMATIC" not in step
        assert "TEMP B-TREE" not in step or name == "streams.OF_NAME", step


@pytest.mark.parametrize("name", sorted(ENDS_EARLY | LONG))
def test_a_longer_read_goes_by_ids_and_sorts_nothing(repository, name):
    """SQLite once chose to read all messages for each batch."""
    for step in plan(repository, STATEMENTS[name]):
        assert "AUTOMATIC" not in step
        assert "TEMP B-TREE" not in step
        assert step != "SCAN message" or name == "lookup.RECENT"


def test_counting_takes_as_many_steps_with_many_batches_as_with_few(repository):
    from storage_fixtures import deliver, fill

    def steps():
        taken = 0

        def count():
            nonlocal taken
            taken += 1

        connection = repository._database.connection
        connection.set_progress_handler(count, 1)
        repository.counts()
        repository.backlog()
        repository.claims()
        connection.set_progress_handler(None, 0)
        return taken

    fill(repository, 10)
    deliver(repository, 1)
    few = steps()
    fill(repository, 2000)
    for _ in range(500):
        deliver(repository, 1)
    assert steps() <= few + 5
