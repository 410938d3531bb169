"""Every message keeps one globally unique id for ever (P4): streams, nodes, and looking ids up."""

import contextlib
import re
from dataclasses import replace

import pytest
from storage_fixtures import (
    DELIVERED,
    POLICY,
    RULES,
    WHO,
    deliver,
    events,
    fill,
    rows,
)

from sensor_node.model import Stream
from sensor_node.storage import streams
from sensor_node.storage.connection import open_reader

NOW = 1000.0


def stored(repository):
    found = rows(repository, "SELECT first_id, name, wire_first, node FROM stream ORDER BY 1")
    return [Stream(*row) for row in found]


def begin(repository, **who):
    repository.begin_run(replace(WHO, **who), NOW, "a run")


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
    assert events(repository, "new stream") == []


def test_the_same_machine_goes_on_in_its_stream(repository):
    fill(repository, 5)
    begin(repository)
    assert len(stored(repository)) == 1


def test_another_machine_with_the_same_card_gets_a_stream_of_its_own(repository):
    fill(repository, 5)
    begin(repository, machine="a clone")
    first, second = stored(repository)
    assert (second.first_id, second.wire_first, second.node) == (6, 1, "edge-01")
    assert second.name != first.name
    assert events(repository, "new stream") == [
        f"{second.name}: this is another machine than before"
    ]
    begin(repository, machine="a clone")
    assert len(stored(repository)) == 2


def test_after_restoring_a_backup_a_new_stream_can_be_begun_by_command(repository):
    fill(repository, 5)
    stream = repository.new_stream(NOW)
    assert stored(repository)[1] == stream
    assert (stream.first_id, stream.wire_first, stream.node) == (6, 1, "edge-01")
    assert events(repository, "new stream") == [f"{stream.name}: by command"]


def test_a_stream_that_nothing_was_captured_under_is_replaced(repository):
    for _ in range(3):
        stream = repository.new_stream(NOW)
    assert stored(repository) == [stream]


def test_a_new_node_id_is_carried_by_new_readings_only_and_numbers_go_on(repository):
    [old] = stored(repository)
    fill(repository, 4)
    begin(repository, node="edge-02")
    fill(repository, 2)
    begin(repository, node="edge-03")
    fill(repository, 1)
    nodes = ["edge-01"] * 4 + ["edge-02"] * 2 + ["edge-03"]
    assert wire_ids(repository) == [(f"{old.name}-{i + 1}", node) for i, node in enumerate(nodes)]


def test_a_node_renamed_twice_before_a_reading_has_the_last_name_and_the_next_number(repository):
    [old] = stored(repository)
    fill(repository, 4)
    begin(repository, node="edge-02")
    begin(repository, node="edge-03")
    fill(repository, 1)
    assert wire_ids(repository)[-1] == (f"{old.name}-5", "edge-03")


def test_ids_on_the_wire_are_unique_and_without_gaps_in_each_stream(repository):
    for change in ({}, {"node": "b"}, {"machine": "m"}, {"node": "c"}, {"machine": "n"}):
        begin(repository, **{"node": "a", **change})
        fill(repository, 4)
        repository.new_stream(NOW)
        fill(repository, 3)
    found = [wire for wire, _ in wire_ids(repository)]
    assert len(found) == len(set(found)) == 35
    for name in {wire.partition("-")[0] for wire in found}:
        numbers = sorted(int(wire.partition("-")[2]) for wire in found if wire.startswith(name))
        assert numbers == list(range(1, len(numbers) + 1))


def test_an_id_from_the_wire_finds_its_message_again(repository):
    fill(repository, 4)
    begin(repository, node="edge-02")
    fill(repository, 4)
    repository.new_stream(NOW)
    fill(repository, 4)
    found = [local_id(repository, wire) for wire, _ in wire_ids(repository)]
    assert found == list(range(1, 13))


def test_a_plain_number_is_a_local_id(repository):
    assert local_id(repository, "17") == 17


def test_a_number_that_a_stream_never_reached_is_not_another_stream_s_message(repository):
    [old] = stored(repository)
    fill(repository, 4)
    new = repository.new_stream(NOW)
    fill(repository, 4)
    assert local_id(repository, f"{old.name}-4") == 4
    assert local_id(repository, f"{old.name}-5") is None
    assert local_id(repository, f"{new.name}-1") == 5


@pytest.mark.parametrize(
    "text", ["", "-", "x", "-5", "1-", "f" * 24 + "-1", "1.5", "1" * 30, "²", "0x1"]
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
    repository.evict_oldest("max_size", NOW)
    fill(repository, 1)
    assert [wire for wire, _ in wire_ids(repository)] == [f"{stream.name}-4"]


def test_a_number_too_long_to_read_finds_nothing(repository):
    name = stored(repository)[0].name
    with contextlib.closing(open_reader(repository.path)) as connection:
        assert streams.local_id(connection, f"{name}-{'9' * 5000}") is None
        assert streams.local_id(connection, "9" * 5000) is None
