"""What an old database, perhaps a damaged one, still has to deliver comes back with its ids."""

import contextlib
import random
import sqlite3
from collections import Counter
from dataclasses import replace

import pytest
from storage_fixtures import (
    DELIVERED,
    POLICY,
    POLICY_ONCE,
    ROOM,
    RULES,
    WHO,
    audit,
    batch,
    batch_ranges,
    deliver,
    dump,
    events,
    execute,
    fail,
    fill,
    new_stream,
    park,
    rows,
    statuses,
)

from sensor_node.core.errors import SensorNodeError
from sensor_node.core.model import Reading
from sensor_node.storage.repair import replace_header
from sensor_node.storage.repair.damaged_file import DamagedFile
from sensor_node.storage.repair.salvage import Salvaged
from sensor_node.storage.repository import SensorDataSQLRepository

NOW = 1000.0
PAGE = 1024
OWN_STREAMS = "SELECT name FROM stream WHERE node = 'edge-01' ORDER BY first_id"


@pytest.fixture
def old(place):
    """A database of days gone by: 30 readings, five of each status, PENDING on top."""
    with contextlib.closing(SensorDataSQLRepository(place / "old.db")) as old:
        old.begin_run(replace(WHO, node="edge-00"), 0.0, "old run")
        fill(old, 30)
        deliver(old, 5)
        fail(old, 5)
        park(old, 5, "DEAD")
        park(old, 5, "IN_DOUBT")
        old.claim_fresh("sender", POLICY, NOW, 5)
        yield old


def big(place, count=3000):
    """An old database with one reading after another, in the file and not in a WAL."""
    path = place / "big.db"
    with contextlib.closing(SensorDataSQLRepository(path)) as old:
        old.begin_run(WHO, 0.0, "old run")
        fill(old, count)
    return path


def salvage(repository, path, policy=POLICY):
    """Returns the damaged file, closed, and how many readings came back."""
    added = 0
    with contextlib.closing(DamagedFile(path, "nobody")) as damaged_file:
        for chunk in damaged_file.undelivered(at_most_once=policy.at_most_once):
            while (new := repository.salvage(chunk, path.name, policy, NOW)) is None:
                continue
            added += new
        damaged_file.missed = damaged_file.unreadable
    return damaged_file, added


def wire(repository):
    """Id on the wire, node, status, value, time of each message."""
    messages = rows(
        repository,
        "SELECT (SELECT name || '-' || (message.id - first_id + wire_first) || ' ' || node"
        "  FROM stream WHERE first_id <= message.id ORDER BY first_id DESC LIMIT 1),"
        " status, name, value, timestamp_us FROM message ORDER BY id",
    )
    assert len({wire_id for wire_id, *_ in messages}) == len(messages)
    return {wire_id: tuple(fields) for wire_id, *fields in messages}


class TestWhatComesBack:
    def test_is_undelivered_and_keeps_its_id_its_node_and_its_value(self, repository, old):
        fill(repository, 3)
        damaged_file, added = salvage(repository, old.path)
        assert (damaged_file.found, damaged_file.delivered, damaged_file.missed, added) == (
            30,
            5,
            0,
            25,
        )
        before, after = wire(old), wire(repository)
        for key, (status, *reading) in before.items():
            if status == "SENT":
                assert key not in after
            else:
                new_status = status if status in ("DEAD", "IN_DOUBT") else "FAILED"
                assert after[key] == (new_status, *reading)
        assert len(after) == 3 + 25

    def test_goes_on_top_of_what_was_waiting_and_a_new_stream_begins_after_it(
        self, repository, old
    ):
        fill(repository, 3)
        salvage(repository, old.path)
        fill(repository, 2)
        first, *_, last = [name for (name,) in rows(repository, OWN_STREAMS)]
        own = [key for key in wire(repository) if key.endswith(" edge-01")]
        before, after = [f"{first}-{n} edge-01" for n in (1, 2, 3)], [29, 30]
        assert own == before + [f"{last}-{n} edge-01" for n in after]
        assert list(statuses(repository).values())[:3] == ["FAILED"] * 3
        assert batch(repository, 1, "attempts", "fate_unknown") == (0, 0)

    def test_is_sent_in_batches_of_its_own_stream_and_is_marked_as_perhaps_sent(
        self, repository, old
    ):
        policy = replace(POLICY, batch_size=4)
        salvage(repository, old.path, policy)
        streams = set()
        while claim := repository.claim_due("retrier", policy, NOW, 4):
            assert claim.size <= 4
            assert batch(repository, claim.first_id, "fate_unknown") == (1,)
            assert len(repository.read_claim(claim)) == claim.size
            streams.add((claim.stream.name, claim.stream.node))
            assert repository.settle(claim, DELIVERED, RULES, NOW)
        assert streams == {(*rows(old, "SELECT name FROM stream")[0], "edge-00")}
        assert Counter(statuses(repository).values()) == {"SENT": 15, "DEAD": 5, "IN_DOUBT": 5}

    def test_is_in_doubt_where_nothing_may_be_sent_twice(self, repository, old):
        fill(repository, 3)
        salvage(repository, old.path, POLICY_ONCE)
        assert Counter(statuses(repository).values()) == {"FAILED": 3, "DEAD": 5, "IN_DOUBT": 20}
        claim = repository.claim_due("retrier", POLICY_ONCE, NOW, 100)
        assert (claim.first_id, claim.last_id) == (1, 3)
        assert repository.claim_due("retrier", POLICY_ONCE, NOW, 100) is None

    def test_is_in_the_history(self, repository, old):
        salvage(repository, old.path)
        assert events(repository, "salvaged") == ["old.db"]
        assert rows(repository, "SELECT n, first, last FROM event WHERE kind = 'salvaged'") == [
            (25, 1, 25)
        ]

    def test_does_not_come_twice(self, repository, old):
        salvage(repository, old.path)
        before = dump(repository)
        assert salvage(repository, old.path)[1] == 0
        assert dump(repository) == before

    def test_does_not_come_twice_when_it_was_purged_or_evicted_since(self, repository, old):
        salvage(repository, old.path)
        while claim := repository.claim_due("retrier", POLICY, NOW, 100):
            assert repository.settle(claim, DELIVERED, RULES, NOW)
        repository.purge(0, None, NOW)
        while repository.evict_parked("test", NOW):
            continue
        assert statuses(repository) == {}
        assert salvage(repository, old.path)[1] == 0

    def test_comes_once_also_when_only_some_of_it_came_before(self, repository, old):
        with contextlib.closing(DamagedFile(old.path, "")) as damaged_file:
            [chunk] = damaged_file.undelivered(at_most_once=False)
        assert repository.salvage(chunk[3:9], "old.db", POLICY, NOW) == 6
        fill(repository, 2)
        while repository.salvage(chunk, "old.db", POLICY, NOW) is None:
            continue
        assert len(wire(repository)) == 25 + 2

    def test_is_not_taken_for_what_a_forgotten_stream_had(self, repository, old):
        """The next row of the table is then another's: each stream knows where it ended."""
        with contextlib.closing(DamagedFile(old.path, "")) as damaged_file:
            [chunk] = damaged_file.undelivered(at_most_once=False)
        assert repository.salvage(chunk[:10], "old.db", POLICY, NOW) == 10
        fill(repository, 15)
        new_stream(repository)
        deliver(repository, 15)
        repository.purge(0, None, NOW)
        assert repository.salvage(chunk, "old.db", POLICY, NOW) == 15
        ids = {f"{salvaged.stream}-{salvaged.number} edge-00" for salvaged in chunk}
        assert ids <= wire(repository).keys()

    def test_makes_way_in_transactions_that_are_not_long(self, repository, old, monkeypatch):
        monkeypatch.setattr("sensor_node.storage.repository.MAKE_WAY_CHUNK", 4)
        fill(repository, 10)
        new_stream(repository, NOW)
        fill(repository, 10)
        with contextlib.closing(DamagedFile(old.path, "")) as damaged_file:
            [chunk] = damaged_file.undelivered(at_most_once=False)
        tries = [repository.salvage(chunk, "", POLICY, NOW) for _ in range(5)]
        assert tries == [None, None, None, None, 25]
        assert all(
            (first - 1) // 10 == (last - 1) // 10 for first, last, _ in batch_ranges(repository)[:5]
        )

    def test_does_not_look_like_the_end_of_capture(self, repository, old):
        """Else the time since some other day would count as not running, or as missed."""
        fill(repository, 1, first_us=900_000_000, now=900.0)
        salvage(repository, old.path)
        assert repository.begin_run(WHO, NOW, "a run") == 900_000_000


class TestTheSameStream:
    """The old database is this one's own past or future: a backup was restored."""

    def test_what_is_here_already_stays_here_alone(self, repository):
        fill(repository, 20)
        deliver(repository, 12)
        before = dump(repository)
        assert salvage(repository, repository.path)[1] == 0
        assert dump(repository) == before

    def test_what_was_captured_after_the_backup_comes_back_with_its_ids(self, repository, place):
        fill(repository, 10)
        later = place / "later.db"
        with contextlib.closing(SensorDataSQLRepository(later)) as old:
            new_stream(old)
            fill(old, 15)
            [(name,)] = rows(repository, "SELECT name FROM stream")
            execute(old, "UPDATE stream SET name = :name", name=name)
        assert salvage(repository, later)[1] == 5
        fill(repository, 1)
        keys = [key.split()[0] for key in wire(repository)]
        assert keys[:15] == [f"{name}-{n}" for n in range(1, 16)]
        assert keys[15].endswith("-16") and not keys[15].startswith(name)

    def test_its_streams_are_told_apart_after_the_first_of_them_was_forgotten(
        self, repository, place
    ):
        old = place / "old.db"
        with contextlib.closing(SensorDataSQLRepository(old)) as before:
            for _ in range(3):
                new_stream(before)
                fill(before, 4)
            for _ in range(2):
                deliver(before, 3)
            before.purge(0, None, NOW)
            ids = set(wire(before))
        damaged_file, added = salvage(repository, old)
        assert (damaged_file.keeps_ids, added) == (True, 8)
        assert set(wire(repository)) == ids


class TestADamagedFile:
    @pytest.mark.parametrize("seed", range(40))
    def test_gives_what_is_sound_with_ids_and_values_as_they_were(self, repository, place, seed):
        """Pages overwritten at random; those with the header and the names are spared."""
        random.seed(seed)
        path = big(place)
        with contextlib.closing(SensorDataSQLRepository(path)) as whole:
            before = wire(whole)
            [(spared,)] = rows(whole, "SELECT max(rootpage) FROM sqlite_schema")
        damaged = bytearray(path.read_bytes())
        for page in random.sample(range(spared, len(damaged) // PAGE), random.choice((1, 3, 20))):
            filling = random.choice((bytes(PAGE), random.randbytes(PAGE), b"\xff" * PAGE))
            damaged[page * PAGE : (page + 1) * PAGE] = filling
        if seed % 4 == 0:
            del damaged[random.randrange(len(damaged) // 2, len(damaged)) :]
        path.write_bytes(damaged)
        damaged_file, added = salvage(repository, path)
        after = wire(repository)
        assert set(after) <= set(before)
        assert all(after[key][1:] == before[key][1:] for key in after)
        assert added == damaged_file.found == len(after)
        assert damaged_file.found + damaged_file.missed == 3000
        assert path.read_bytes() == damaged
        assert salvage(repository, path)[1] == 0

    def test_gives_all_but_the_page_that_is_damaged(self, repository, place):
        path = big(place)
        content = bytearray(path.read_bytes())
        leaf = next(
            page
            for page in range(len(content) // PAGE - 5, 0, -1)
            if content[page * PAGE] == 0x0D and b"temperature" in content[page * PAGE :][:PAGE]
        )
        content[leaf * PAGE : (leaf + 1) * PAGE] = b"\xff" * PAGE
        path.write_bytes(content)
        damaged_file, added = salvage(repository, path)
        assert 5 < damaged_file.missed < 60
        assert added == 3000 - damaged_file.missed

    def test_whose_stream_cannot_be_read_gives_readings_with_new_ids_the_same_each_time(
        self, repository, old
    ):
        execute(old, "UPDATE stream SET name = 'g'")
        damaged_file, added = salvage(repository, old.path)
        assert (damaged_file.keeps_ids, added) == (False, 25)
        assert len({key.partition("-")[0] for key in wire(repository)}) == 1
        assert all(key.endswith(" nobody") for key in wire(repository))
        assert salvage(repository, old.path)[1] == 0

    @pytest.mark.parametrize(
        "change",
        [
            "value = 'x'",
            "value = 9e999",
            "name = CAST(X'FF' AS TEXT)",
            "timestamp_us = 'yesterday'",
            "captured_us = 'today'",
        ],
    )
    def test_does_not_give_what_no_sensor_can_have_captured(self, repository, old, change):
        execute(old, f"UPDATE message SET {change} WHERE id = 27")
        damaged_file, added = salvage(repository, old.path)
        assert (damaged_file.missed, added) == (1, 24)

    def test_gives_a_reading_whose_status_makes_no_sense(self, repository, old):
        execute(old, "UPDATE message SET status = 'SEMT' WHERE id = 1")
        assert salvage(repository, old.path)[1] == 26

    @pytest.mark.parametrize(
        "page",
        [bytes(PAGE), b"\xff" * PAGE, b"SQLite format 3\0" + bytes(PAGE - 16)],
        ids=("zeros", "ones", "its name only"),
    )
    def test_gets_another_first_page_in_a_copy(self, repository, place, tmp_path, page):
        path = big(place)
        content = page + path.read_bytes()[PAGE:]
        path.write_bytes(content)
        with pytest.raises(SensorNodeError, match=r"cannot be read|is not a Sensor") as error:
            DamagedFile(path, "")
        assert "\n" not in str(error.value)
        assert replace_header.is_ours(path)
        damaged_file, added = salvage(
            repository, replace_header.copy_with_new_header(path, tmp_path)
        )
        assert (added, damaged_file.missed) == (3000, 0)
        assert path.read_bytes() == content

    def test_whose_header_says_another_program_is_ours_if_it_has_our_tables(
        self, repository, place
    ):
        path = big(place)
        content = bytearray(path.read_bytes())
        content[70] ^= 1
        path.write_bytes(content)
        assert salvage(repository, path)[1] == 3000

    def test_is_left_as_it_is_with_its_wal(self, repository, old, place):
        """The WAL has what the file has not."""
        assert (place / "old.db-wal").stat().st_size
        copy = place / "copy"
        copy.mkdir()
        for suffix in ("", "-wal"):
            (copy / f"old.db{suffix}").write_bytes((place / f"old.db{suffix}").read_bytes())
        before = {file.name: file.read_bytes() for file in copy.iterdir()}
        assert salvage(repository, copy / "old.db")[1] == 25
        assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


def test_purged_and_evicted_readings_are_not_called_unreadable(repository, place):
    with contextlib.closing(SensorDataSQLRepository(place / "old.db")) as old:
        old.begin_run(WHO, 0.0, "old run")
        fill(old, 10_000)
        deliver(old, 6000)
        old.purge(0, None, NOW)
        old.evict_oldest("test", NOW)
        damaged_file, added = salvage(repository, old.path)
    assert (damaged_file.found, damaged_file.delivered, damaged_file.missed, added) == (
        2000,
        0,
        0,
        2000,
    )


def test_values_come_back_bit_for_bit(repository, place):
    values = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -1e-7, 1 / 3, 2.0**53, 21.0]
    readings = [Reading("a", value, 2**40 + place) for place, value in enumerate(values)]
    with contextlib.closing(SensorDataSQLRepository(place / "old.db")) as old:
        old.begin_run(WHO, 0.0, "old run")
        old.capture(readings, [], 0.0, ROOM)
        salvage(repository, old.path)
    stored = rows(repository, "SELECT value FROM message ORDER BY id")
    assert [value.hex() for (value,) in stored] == [value.hex() for value in values]


def test_readings_of_many_streams_and_nodes_keep_each_its_own(repository, place):
    with contextlib.closing(SensorDataSQLRepository(place / "old.db")) as old:
        for number in range(5):
            old.begin_run(replace(WHO, node=f"node-{number}"), 0.0, "old run")
            fill(old, 7)
            new_stream(old)
            fill(old, 4)
        before = wire(old)
        assert salvage(repository, old.path)[1] == 55
    assert set(wire(repository)) == set(before)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("CREATE TABLE x(y)", "is not a Sensor Node database"),
        ("PRAGMA user_version = 1", "is not a Sensor Node database"),
        ("PRAGMA application_id = 1399746372; PRAGMA user_version = 99", "newer version"),
    ],
)
def test_what_is_no_database_of_ours_is_refused(place, script, message):
    path = place / "x.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    with pytest.raises(SensorNodeError, match=message):
        DamagedFile(path, "")


def test_only_ids_that_are_not_here_yet_are_added(repository):
    """Numbers above and below those that a stream of the same name has in this database."""
    [(name,)] = rows(repository, "SELECT name FROM stream")
    fill(repository, 5)
    readings = [
        Salvaged(name, number, "edge-01", "FAILED", Reading("a", 1.0, 0)) for number in range(8)
    ]
    assert repository.salvage(readings, "x", POLICY, NOW) == 3
    assert audit(repository) == []
