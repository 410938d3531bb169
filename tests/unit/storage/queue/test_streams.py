"""Every message keeps one globally unique id for ever (P4): streams, nodes, and looking ids up."""

import contextlib
import re
import sqlite3
from collections import Counter

import pytest
from storage_fixtures import (
    DELIVERED,
    POLICY,
    ROOM,
    RULES,
    batch_ranges,
    deliver,
    fill,
    new_stream,
    readings,
    rows,
)

from sensor_node.core.errors import StorageUnavailable
from sensor_node.core.model import Stream
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.queue import streams
from sensor_node.storage.repository import SensorDataSQLRepository

NOW = 1000.0


def stored(repository):
    found = rows(repository, "SELECT first_id, name, wire_first, node FROM stream ORDER BY 1")
    return [Stream(*row) for row in found]


def execute_outside(repository, sql):
    with contextlib.closing(sqlite3.connect(repository.path, isolation_level=None)) as connection:
        connection.execute(sql)


def local_id(repository, text):
    with contextlib.closing(open_reader(repository.path)) as connection:
        return streams.local_id(connection, text)


def wire_ids(repository):
    """What the sink would see, and under which node, of all that is pending."""
    found = []
    while claim := repository.claim_fresh("sender", POLICY, NOW, 3):
        found += [
            (claim.stream.wire_id(m.id), claim.stream.node) for m in repository.read_claim(claim)
        ]
        assert repository.settle(claim, DELIVERED, RULES, NOW)
    return found


def test_a_new_database_begins_a_stream_of_96_random_bits(repository):
    [stream] = stored(repository)
    assert re.fullmatch("[0-9a-f]{24}", stream.name)
    assert stream == Stream(1, stream.name, 1, "edge-01")


def test_each_time_that_capture_opens_the_database_a_stream_begins_and_its_numbers_go_on(
    repository,
):
    [first] = stored(repository)
    fill(repository, 5)
    second = new_stream(repository)
    assert stored(repository) == [first, second]
    assert second == Stream(6, second.name, 6, "edge-01")
    assert second.name != first.name


def test_a_stream_that_nothing_was_captured_under_is_replaced(repository):
    for _ in range(3):
        stream = new_stream(repository)
    assert stored(repository) == [stream]


def test_a_new_node_id_is_carried_by_new_readings_only(repository):
    fill(repository, 4)
    new_stream(repository, node="edge-02")
    fill(repository, 2)
    new_stream(repository, node="edge-03")
    fill(repository, 1)
    assert [node for _, node in wire_ids(repository)] == [
        *["edge-01"] * 4,
        *["edge-02"] * 2,
        "edge-03",
    ]


def test_ids_on_the_wire_are_unique_and_their_numbers_have_no_gap_across_streams(repository):
    for node in ("a", "b", "b", "a"):
        new_stream(repository, node=node)
        fill(repository, 4)
    found = [wire for wire, _ in wire_ids(repository)]
    assert len({wire.partition("-")[0] for wire in found}) == 4
    assert [int(wire.partition("-")[2]) for wire in found] == list(range(1, 17))


def test_what_is_restored_copied_or_cut_short_names_no_other_reading(repository, tmp_path):
    """All of these go on from the same rows, with the same numbers."""
    fill(repository, 3)
    copies = [tmp_path / f"copy-{number}.db" for number in range(3)]
    for copy in copies:
        execute_outside(repository, f"VACUUM INTO '{copy}'")
    found = []
    for path in (repository.path, *copies):
        with contextlib.closing(SensorDataSQLRepository(path)) as copied:
            new_stream(copied)
            fill(copied, 3)
            found += [wire for wire, _ in wire_ids(copied)]
    assert Counter(found[:3]) == Counter(found[6:9])  # the readings that all of them have
    after = found[3:6] + found[9:12] + found[15:18] + found[21:]
    assert len(set(after)) == len(after) == 12


def test_nothing_is_captured_by_who_has_not_begun_a_stream(repository):
    with contextlib.closing(SensorDataSQLRepository(repository.path)) as other:
        with pytest.raises(StorageUnavailable, match="replaced"):
            other.capture(readings(1), [], NOW, ROOM)
        new_stream(other)
        other.capture(readings(1), [], NOW, ROOM)


def test_who_has_opened_the_file_anew_begins_a_stream_before_it_captures(repository):
    """As after an I/O error: what bears the name by then may be a restored backup."""
    repository._database._disconnect()
    with pytest.raises(StorageUnavailable, match="replaced"):
        fill(repository, 1)
    new_stream(repository)
    fill(repository, 1)


def test_streams_are_forgotten_with_their_last_message(repository):
    for _ in range(5):
        new_stream(repository)
        fill(repository, 2)
    last_two = stored(repository)[-2:]
    for _ in range(4):
        deliver(repository, 2)
    assert repository.purge(0, None, NOW).messages == 8
    assert stored(repository) == last_two[1:]


def test_a_stream_of_which_one_message_is_left_stays(repository):
    streams_of = [new_stream(repository)]
    fill(repository, 4)
    streams_of.append(new_stream(repository))
    fill(repository, 2)
    deliver(repository, 3)
    repository.purge(0, None, NOW)
    assert stored(repository) == streams_of
    assert wire_ids(repository)[0][0] == f"{streams_of[0].name}-4"


def test_giving_up_readings_of_many_streams_forgets_them_all(repository):
    for _ in range(4):
        new_stream(repository)
        fill(repository, 2)
    last = stored(repository)[-1]
    assert repository.evict_oldest("max_size", NOW) == 8
    assert stored(repository) == [last]
    assert batch_ranges(repository) == [(1, 8, "EVICTED")]


def test_an_id_from_the_wire_finds_its_message_again(repository):
    for _ in range(3):
        fill(repository, 4)
        new_stream(repository)
    found = [local_id(repository, wire) for wire, _ in wire_ids(repository)]
    assert found == list(range(1, 13))


def test_a_plain_number_is_a_local_id(repository):
    fill(repository, 17)
    assert local_id(repository, "17") == 17
    assert local_id(repository, "18") is None


def test_the_whole_id_is_compared_and_not_the_number_alone(repository):
    [old] = stored(repository)
    fill(repository, 4)
    new = new_stream(repository)
    fill(repository, 4)
    assert local_id(repository, f"{old.name}-4") == 4
    assert local_id(repository, f"{new.name}-5") == 5
    for wrong in (f"{old.name}-5", f"{new.name}-4", f"{'0' * 24}-4", f"{old.name}-04"):
        assert local_id(repository, wrong) is None, wrong


def test_a_number_between_two_salvaged_runs_of_a_stream_is_no_message(repository):
    """Rows 7 and 20 of another database, brought here: its 8 is not what lies behind its 7 here."""
    name = "a" * 24
    with repository._transaction() as connection:
        streams.put(connection, Stream(1, name, 7, "n"), salvaged=True)
        streams.put(connection, Stream(2, name, 20, "n"), salvaged=True)
    fill(repository, 2)
    new_stream(repository)
    assert local_id(repository, f"{name}-7") == 1
    assert local_id(repository, f"{name}-8") is None
    assert local_id(repository, f"{name}-20") == 2


@pytest.mark.parametrize(
    "text", ["", "-", "x", "-5", "1-", "0", "00", "f" * 24 + "-1", "1.5", "1" * 30, "²", "0x1"]
)
def test_what_is_no_id_finds_nothing(repository, text):
    assert local_id(repository, text) is None


def test_a_huge_number_of_a_known_stream_finds_nothing(repository):
    [stream] = stored(repository)
    for number in (2**63 - 1, 2**63, 10**40):
        assert local_id(repository, f"{stream.name}-{number}") is None


def test_purging_and_evicting_everything_never_gives_an_id_twice(repository):
    [stream] = stored(repository)
    fill(repository, 3)
    deliver(repository, 2)
    repository.purge(0, None, NOW)
    assert repository.evict_oldest("max_size", NOW)
    fill(repository, 1)
    assert [wire for wire, _ in wire_ids(repository)] == [f"{stream.name}-4"]


def test_a_number_too_long_to_read_finds_nothing(repository):
    name = stored(repository)[0].name
    with contextlib.closing(open_reader(repository.path)) as connection:
        assert streams.local_id(connection, f"{name}-{'9' * 5000}") is None
        assert streams.local_id(connection, "9" * 5000) is None
