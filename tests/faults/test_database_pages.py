"""A flipped page, a cut file: found or harmless, never a crash for ever, and nothing is deleted.

Each case is a life of all the workers, one after the other, in this process: it is quick, and
there are hundreds. The same with real processes: test_database_damaged.py.
"""

import contextlib
import json
import os
import random
import shutil
import sqlite3
import time
from collections import Counter

import pytest
from unit.storage_fixtures import (
    DELIVERED,
    POLICY,
    ROOM,
    RULES,
    UNSENT,
    WHO,
    execute,
    fail,
    fill,
    park,
)

from sensor_node.core.errors import StorageUnavailable
from sensor_node.formats.message_json import encode_array
from sensor_node.processes import owner
from sensor_node.storage.engine import quarantine
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.queue import ledger, message_ids, streams
from sensor_node.storage.repository import SensorDataSQLRepository

PAGE = 1024
FRAME = PAGE + 24
NOW = 1_800_000_000.0
DEAD_OWNER = "sender:another boot:1:1"
# What a start may take.
START_SECONDS = 5.0
RANDOM = random.Random("damage")
CUTS, BITS, WAL_FLIPS = 60, 80, 60


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A database with messages in every status, stopped in good order."""
    path = tmp_path_factory.mktemp("sound") / "telemetry.db"
    with contextlib.closing(SensorDataSQLRepository(path)) as repository:
        repository.begin_run(WHO, NOW, "run")
        repository.watch_sensors({"temperature": 10.0}, 0.0)
        fill(repository, 1000)
        for _ in range(4):
            claim_and_deliver(repository, "sender", NOW)
        repository.purge(0, NOW, NOW)
        repository.begin_run(WHO, NOW, "run")
        fill(repository, 2000, first_us=1_000_000_000)
        repository.evict_oldest("max_size", NOW)
        fill(repository, 2000, first_us=3_000_000_000)
        for _ in range(15):
            claim_and_deliver(repository, "sender", NOW)
        for status in ("DEAD", "IN_DOUBT"):
            park(repository, 40, status, NOW)
        for count in (50, 30, 1):
            fail(repository, count, NOW, due_at=NOW)
        # Of a sensor that was let in just before the stop.
        execute(
            repository,
            "UPDATE batch SET isolated = 'x' WHERE status = 'FAILED' AND failure_order = 1",
        )
        repository.claim_fresh(DEAD_OWNER, POLICY, NOW, 50)
        repository.check_for_damage(60.0)
        repository.end_run(NOW)
    assert not quarantine.wal_of(path).exists()
    return path


def claim_and_deliver(repository, owner, now, sent=None):
    """What a sender does. False if there is nothing left to claim."""
    claim = repository.claim_fresh(owner, POLICY, now, 50)
    return claim is not None and deliver(repository, claim, now, sent)


def deliver(repository, claim, now, sent=None):
    """As the batch sender does it; `sent` gets what goes over the wire."""
    messages = repository.read_claim(claim)
    if len(messages) != claim.size:
        return repository.settle(claim, UNSENT, RULES, now)
    body = json.loads(encode_array(messages, claim.stream, 50), parse_constant=pytest.fail)
    if sent is not None:
        sent += [one["id"] for one in body]
    return repository.settle(claim, DELIVERED, RULES, now)


def live(path, doubtful):
    """All that the processes do in a run. Returns the ids on the wire."""
    sent, now = [], NOW + 60
    with contextlib.closing(SensorDataSQLRepository(path, replaces=True)) as repository:
        if doubtful:
            repository.check_for_damage()
        repository.begin_run(WHO, now, "run")
        repository.watch_sensors({"temperature": 10.0}, 1.0)
        fill(repository, 10)
        repository.sample(1.0)
        repository.space(ROOM)
        repository.backlog(now)
        while repository.let_in(now):
            continue
        for first, _, text in repository.claims():
            if not owner.is_alive(text):
                repository.reclaim(first, text, now, at_most_once=False)
        while repository.due_in(POLICY, now) == 0 and (
            claim := repository.claim_due("retrier", POLICY, now, 50)
        ):
            deliver(repository, claim, now, sent)
        while claim_and_deliver(repository, "sender", now, sent):
            continue
        repository.park_doubtful(now)
        while repository.evict_parked("too many", now):
            continue
        while repository.evict_older_than(1_500_000_000, now):
            continue
        after, ended = 0, False
        while not ended:
            _, after, ended = repository.purge(after, now, now)
        repository.counts()
        repository.checkpoint(truncate=True)
        repository.end_run(now)
    return sent


class Case:
    def __init__(self, place, sound, number):
        self.path = place / str(number) / "telemetry.db"
        shutil.copytree(sound.parent, self.path.parent)

    def flip(self, offset, pattern, file=None):
        """XOR the bytes from there on with the pattern."""
        with (file or self.path).open("r+b") as file:
            file.seek(offset)
            old = file.read(len(pattern))
            file.seek(offset)
            file.write(bytes(a ^ b for a, b in zip(old, pattern, strict=False)))

    def verdict(self, doubtful=False):
        """`harmless`, `found` when it was touched, or `checked`: by a process that came after."""
        damaged = self.path.read_bytes()
        started = time.monotonic()
        said = "found"
        try:
            live(self.path, doubtful)
            said = "harmless"
        except StorageUnavailable as error:
            assert error.reason == "replaced", error
        except Exception as error:
            # The process dies; the one in its place looks before it goes on.
            said = "checked"
            with pytest.raises(StorageUnavailable) as caught:
                live(self.path, doubtful=True)
            if caught.value.reason != "replaced":
                raise AssertionError("a crash for ever") from error
        assert time.monotonic() - started < START_SECONDS
        if said != "harmless":
            self.begins_anew(damaged)
        shutil.rmtree(self.path.parent)
        return said

    def begins_anew(self, damaged):
        [old] = quarantine.files(self.path)
        assert old.stat().st_size >= len(damaged)
        assert live(self.path, doubtful=False)
        assert quarantine.files(self.path) == [old]
        with contextlib.closing(open_reader(self.path)) as reader:
            [(event,)] = reader.execute("SELECT detail FROM event WHERE kind = 'database damaged'")
            assert str(old) in event
            assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_database_has_messages_in_every_status(sound):
    with contextlib.closing(open_reader(sound)) as reader:
        assert len(reader.execute("SELECT DISTINCT status FROM batch").fetchall()) == 7
        assert ledger.counts(reader).pending > 500


def test_what_is_sound_stays_in_its_place(tmp_path, sound):
    assert Case(tmp_path, sound, 0).verdict() == "harmless"


def test_a_page_that_is_flipped_is_found_by_whoever_needs_it(tmp_path, sound):
    """All pages are needed here."""
    pages = range(sound.stat().st_size // PAGE)
    assert len(pages) > 100
    for page in pages:
        case = Case(tmp_path, sound, page)
        case.flip(page * PAGE, b"\xff" * PAGE)
        assert case.verdict() != "harmless", page


def test_a_file_that_is_cut_anywhere_is_found(tmp_path, sound):
    for length in [1, 99, 100, *RANDOM.sample(range(sound.stat().st_size), CUTS)]:
        case = Case(tmp_path, sound, length)
        os.truncate(case.path, length)
        assert case.verdict() == "found", length


def test_a_flipped_bit_never_makes_a_process_crash_for_ever(tmp_path, sound):
    """Most change a value or a time, which nobody can tell from what was captured."""
    found = Counter()
    # The first pages hold the header, the schema and the small tables.
    places = RANDOM.sample(range(16 * PAGE), BITS // 2)
    places += RANDOM.sample(range(sound.stat().st_size), BITS // 2)
    for number, place in enumerate(places):
        case = Case(tmp_path, sound, number)
        case.flip(place, bytes([1 << RANDOM.randrange(8)]))
        found[case.verdict()] += 1
    assert found["found"] > 10


@pytest.fixture(scope="module")
def crashed(tmp_path_factory, sound):
    """The same and what a crash leaves: a WAL of a thousand readings, each its own commit."""
    living, dead = (tmp_path_factory.mktemp(name) / sound.name for name in ("living", "dead"))
    shutil.copytree(sound.parent, living.parent, dirs_exist_ok=True)
    with contextlib.closing(SensorDataSQLRepository(living)) as repository:
        repository.begin_run(WHO, NOW, "run")
        for _ in range(200):
            fill(repository, 1)
        shutil.copytree(living.parent, dead.parent, dirs_exist_ok=True)
    return dead


def captured_and_stream(path):
    """As the generator opens it after an unclean stop: what it finds, and how ids go on."""
    with contextlib.closing(SensorDataSQLRepository(path, replaces=True)) as repository:
        repository.check_for_damage()
        repository.begin_run(WHO, NOW, "the next run")
        fill(repository, 1)
        with contextlib.closing(open_reader(path)) as reader:
            return message_ids.highest_id(reader) - 1, streams.last(reader)


def test_a_wal_that_a_crash_left_is_recovered_whatever_the_shm_file_says(tmp_path, crashed):
    case = Case(tmp_path, crashed, 1)
    case.path.with_name(case.path.name + "-shm").write_bytes(RANDOM.randbytes(32768))
    assert captured_and_stream(case.path)[0] == 5200


def test_ids_that_a_damaged_or_cut_wal_may_have_held_are_never_used_again(tmp_path, crashed):
    """SQLite takes the first damaged frame for the end, and says nothing."""
    size = quarantine.wal_of(crashed).stat().st_size
    held, used = known(crashed), set()
    for number, place in enumerate([*range(0, 32, 4), *RANDOM.sample(range(size), WAL_FLIPS)], 1):
        case = Case(tmp_path, crashed, number)
        if number % 2:
            case.flip(place, b"\xff", quarantine.wal_of(case.path))
        else:
            os.truncate(quarantine.wal_of(case.path), place)
        captured, stream = captured_and_stream(case.path)
        assert quarantine.files(case.path) == []
        assert stream.first_id == captured + 1 <= 5201
        assert stream.name not in held | used, (number, captured)
        used.add(stream.name)
        shutil.rmtree(case.path.parent)


def known(path):
    """The names of all streams."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        return {name for (name,) in reader.execute("SELECT name FROM stream")}


def test_a_wal_that_was_taken_away_leaves_ids_that_are_not_used_again(tmp_path, crashed):
    held = known(crashed)
    case = Case(tmp_path, crashed, 1)
    quarantine.wal_of(case.path).unlink()
    captured, present = captured_and_stream(case.path)
    assert captured == 5000
    assert present.name not in held


def test_a_wal_of_another_time_is_found_by_the_ledger(tmp_path, sound, crashed):
    """Put beside a database that has gone on since, as a bad backup does."""
    case = Case(tmp_path, sound, 0)
    live(case.path, doubtful=False)
    shutil.copyfile(quarantine.wal_of(crashed), quarantine.wal_of(case.path))
    assert case.verdict(doubtful=True) == "found"
