"""The sender claims when it may, sends each batch once, and settles it whatever happens between."""

import errno
import json
from dataclasses import replace

import pytest
from clocks import WALL, ManualClock
from storage_fixtures import (
    BUSY,
    DELIVERED,
    POLICY,
    REFUSED,
    RULES,
    SILENT,
    WHO,
    LockCounter,
    audit,
    batch,
    batch_ranges,
    execute,
    fail,
    fill,
    readings,
    rows,
    set_sink,
    statuses,
)

from sensor_node.config.loader import load_config
from sensor_node.core.errors import StorageUnavailable
from sensor_node.core.model import Reading
from sensor_node.delivery.batch_sender import MAX_BODY_BYTES, QUICK_SECONDS, BatchSender
from sensor_node.formats.message_json import encode_array
from sensor_node.processes.delivery_service import PATIENCE_SECONDS, DeliveryService
from sensor_node.processes.service import LONGEST_WAIT_SECONDS
from sensor_node.storage.queue.room import SizeLimits
from sensor_node.storage.repository import SensorDataSQLRepository

OWNER = "sender:boot:1:1"
ROOM = SizeLimits(1 << 40, 0)
NOW_US = int(WALL * 1e6)
DISK_FULL = StorageUnavailable("disk full", "telemetry.db")


class Client:
    """Answers as it is told; `during` runs while a request is on its way."""

    files = frozenset()
    error = None

    def __init__(self):
        self.requests = []
        self.outcome = DELIVERED
        self.during = None
        self.closed = False

    def post(self, body, key):
        self.requests.append((body, key))
        if self.during:
            self.during()
        if self.error:
            raise self.error
        return self.outcome

    def close(self):
        self.closed = True


class Repository(SensorDataSQLRepository):
    """The real one, which can be told to fail."""

    failing = ()
    looks = 0
    after_a_look = None

    def backlog(self, now):
        self.looks += 1
        found = super().backlog(now)
        if self.after_a_look:
            self.after_a_look()
        return found

    def settle_and_claim(self, *what):
        self.fail_if_told("settle_and_claim")
        return super().settle_and_claim(*what)

    def settle(self, claim, outcome, rules, now):
        self.fail_if_told("settle")
        return super().settle(claim, outcome, rules, now)

    def read_claim(self, claim):
        self.fail_if_told("read_claim")
        return super().read_claim(claim)

    def fail_if_told(self, what):
        if what in self.failing:
            raise DISK_FULL


class Practised(BatchSender):
    """One that has sent before, as every sender has but for its first time."""

    has_sent = True


class Sender(LockCounter):
    """One sender beside another process, `repository`, that captures."""

    def __init__(
        self,
        place,
        repository,
        options="",
        owner=OWNER,
        batch_sender=Practised,
        encode=encode_array,
    ):
        file = place / "config.ini"
        file.write_text(f"[sensor:room]\n[sink]\n{options}\n")
        config = load_config(file)
        row = replace(config.sink.format, encode=encode)
        self.config = replace(config, sink=replace(config.sink, format=row))
        self.clock = ManualClock()
        self.client = Client()
        self.unloadable = None
        self.other = repository
        self.own = Repository(repository.path, self)
        self.rings = 0
        self.heeded = []
        self.batch_sender = batch_sender(self.config, self.own, self.connect, self.clock, self.ring)
        what = (self.config, owner, self.own, self.batch_sender)
        self.service = DeliveryService(*what, self.heeded.append)

    def connect(self):
        if self.unloadable:
            raise self.unloadable
        return self.client

    def ring(self):
        self.rings += 1

    def step(self):
        return self.service.step(self.clock.now())

    def finish(self):
        self.service.finish(self.clock.now())

    def capture(self, count, at_us=NOW_US):
        fill(self.other, count, first_us=at_us)

    def sent(self):
        """The numbers of the messages in each request."""
        found = []
        for body, _ in self.client.requests:
            loaded = json.loads(body)
            messages = loaded if isinstance(loaded, list) else [loaded]
            found.append([int(message["id"].rpartition("-")[2]) for message in messages])
        return found


@pytest.fixture
def make(place, repository):
    made = []

    def make_sender(options="", **how):
        made.append(Sender(place, repository, options, **how))
        return made[-1]

    yield make_sender
    for sender in made:
        if not sender.client.closed:
            sender.finish()


class TestAStep:
    def test_delivers_one_batch_and_looks_at_once_for_the_next(self, make, repository) -> None:
        sender = make("batch_size = 3")
        sender.capture(5)
        assert [sender.step(), sender.step(), sender.step()] == [0.0, 0.0, LONGEST_WAIT_SECONDS]
        assert sender.sent() == [[1, 2, 3], [4, 5]]
        assert set(statuses(repository).values()) == {"SENT"}

    def test_takes_no_lock_while_there_is_nothing_to_do(self, make) -> None:
        sender = make()
        for _ in range(100):
            sender.clock.advance(LONGEST_WAIT_SECONDS)
            assert sender.step() == LONGEST_WAIT_SECONDS
        assert sender.locked == 1  # to open the database
        assert sender.own.looks == 1

    def test_sees_what_another_process_captures(self, make) -> None:
        sender = make()
        sender.step()
        sender.capture(1)
        assert sender.step() == 0.0
        assert sender.sent() == [[1]]

    def test_sends_ids_and_a_key_that_are_the_same_for_ever(self, make, repository) -> None:
        sender = make()
        sender.capture(2)
        sender.step()
        [(body, key)] = sender.client.requests
        [(stream,)] = rows(repository, "SELECT name FROM stream")
        assert [message["id"] for message in json.loads(body)] == [f"{stream}-1", f"{stream}-2"]
        assert key.startswith(f'"{stream}-1-2-')

    def test_leaves_what_another_sender_has_claimed(self, make) -> None:
        first, second = make("batch_size = 2"), make("batch_size = 2", owner="sender:boot:2:2")
        first.capture(4)
        first.client.during = second.step
        first.step()
        assert (first.sent(), second.sent()) == ([[1, 2]], [[3, 4]])

    def test_finds_nothing_where_another_sender_claims_just_before_it(self, make) -> None:
        first, second = make(), make(owner="sender:boot:2:2")
        first.capture(2)
        first.own.after_a_look = second.step
        assert first.step() == LONGEST_WAIT_SECONDS
        assert (first.sent(), second.sent()) == ([], [[1, 2]])

    def test_before_its_first_request_leaves_small_batches_to_others_for_a_while(
        self, make
    ) -> None:
        sender = make("batch_size = 2", batch_sender=BatchSender)
        sender.capture(1)
        assert sender.step() == pytest.approx(PATIENCE_SECONDS)
        sender.clock.advance(PATIENCE_SECONDS)
        assert sender.step() == 0.0
        sender.capture(1, at_us=sender.clock.now().wall_us)
        assert sender.step() == 0.0
        assert sender.sent() == [[1], [2]]

    def test_takes_a_full_batch_at_once_also_the_first(self, make) -> None:
        sender = make("batch_size = 2", batch_sender=BatchSender)
        sender.capture(2)
        assert sender.step() == 0.0
        assert sender.sent() == [[1, 2]]

    def test_tells_others_of_what_failed_and_of_nothing_else(self, make, repository) -> None:
        sender = make("batch_size = 1")
        sender.capture(2)
        sender.step()
        assert sender.rings == 0
        sender.client.outcome = REFUSED
        sender.step()
        assert sender.rings == 1

    def test_leaves_a_failed_batch_to_the_retrier(self, make, repository) -> None:
        sender = make()
        sender.capture(1)
        sender.client.outcome = REFUSED
        sender.step()
        assert [sender.step() for _ in range(3)] == [LONGEST_WAIT_SECONDS] * 3
        assert batch_ranges(repository) == [(1, 1, "FAILED")]
        assert len(sender.client.requests) == 1

    def test_keeps_to_the_rate_limit(self, make) -> None:
        sender = make("max_rate = 10\nbatch_size = 100")
        sender.capture(30)
        assert sender.step() == 0.0
        before = sender.locked
        for tenth in range(9):
            assert sender.step() == pytest.approx(1.0 - tenth / 10, abs=1e-6)
            sender.clock.advance(0.1)
        assert sender.locked == before  # asking takes no lock
        sender.clock.advance(0.2)
        sender.step()
        assert list(map(len, sender.sent())) == [10, 10]


class TestASinkThatIsDown:
    def test_gets_nothing_from_a_sender_even_if_a_probe_is_due(self, make, repository) -> None:
        sender = make()
        sender.capture(5)
        set_sink(repository, state="DOWN", next_probe_at=0)
        for _ in range(20):
            sender.clock.advance(60)
            assert sender.step() == LONGEST_WAIT_SECONDS
        assert sender.client.requests == []
        assert sender.locked == 1

    def test_is_no_reason_to_be_woken_by_commits_until_it_is_up(self, make, repository) -> None:
        sender = make()
        sender.step()
        set_sink(repository, state="DOWN", next_probe_at=0)
        sender.step()
        sender.capture(5)
        sender.step()
        set_sink(repository, state="UP")
        sender.step()
        assert sender.heeded == [False, True]

    def test_is_noticed_by_all_senders_after_one_failure(self, make) -> None:
        first, second = make("batch_size = 1"), make("batch_size = 1", owner="sender:boot:2:2")
        first.capture(5)
        first.client.outcome = SILENT
        first.step()
        for sender in (first, second):
            assert sender.step() == LONGEST_WAIT_SECONDS
        assert (len(first.client.requests), second.client.requests) == (1, [])

    def test_that_is_up_again_is_first_sent_what_the_outage_left_over(
        self, make, repository
    ) -> None:
        sender = make("batch_size = 2")
        sender.capture(9)
        for _ in range(3):
            fail(repository, 2, due_at=WALL - 10)
        execute(repository, "UPDATE batch SET failures = 1 WHERE first_id = 3")
        while sender.step() == 0.0:
            pass
        # The third has failed for its own sake, and is the retrier's.
        assert sender.sent() == [[1, 2], [5, 6], [7, 8], [9]]

    def test_that_is_up_again_does_not_wait_for_a_batch_to_be_full(self, make, repository) -> None:
        sender = make("send_interval = 1h\nbatch_size = 2")
        sender.capture(3)
        fail(repository, 2, due_at=WALL - 10)
        assert sender.step() == 0.0
        assert sender.sent() == [[1, 2]]
        assert sender.step() > 0

    def test_that_is_up_again_is_sent_to_at_the_next_step(self, make, repository) -> None:
        sender = make()
        sender.capture(1)
        set_sink(repository, state="DOWN", next_probe_at=WALL + 60)
        sender.step()
        set_sink(repository, state="UP")
        assert sender.step() == 0.0
        assert sender.sent() == [[1]]


class TestSendInterval:
    def test_waits_until_the_oldest_reading_is_so_old(self, make) -> None:
        sender = make("send_interval = 60s")
        sender.capture(1)
        assert sender.step() == pytest.approx(60)
        sender.clock.advance(59.5)
        assert sender.step() == pytest.approx(0.5)
        assert sender.client.requests == []
        sender.clock.advance(0.5)
        sender.step()
        assert sender.sent() == [[1]]

    def test_counts_from_capture_and_not_from_when_it_was_seen(self, make) -> None:
        sender = make("send_interval = 60s")
        sender.capture(1, at_us=NOW_US - 50_000_000)
        assert sender.step() == pytest.approx(10)

    def test_sends_all_that_has_come_until_then(self, make) -> None:
        sender = make("send_interval = 60s")
        sender.capture(1)
        sender.step()
        sender.capture(10)
        sender.clock.advance(60)
        sender.step()
        assert list(map(len, sender.sent())) == [11]

    def test_does_not_hold_up_a_batch_that_is_full(self, make) -> None:
        sender = make("send_interval = 60s\nbatch_size = 10")
        sender.capture(25)
        while sender.step() == 0.0:
            pass
        assert list(map(len, sender.sent())) == [10, 10]

    def test_passes_also_if_the_wall_clock_was_set_back(self, make) -> None:
        sender = make("send_interval = 60s")
        sender.capture(1)
        sender.step()
        sender.clock.wall -= 86_400
        sender.clock.advance(59.5)
        assert sender.step() == pytest.approx(0.5)
        sender.clock.advance(0.5)
        sender.step()
        assert sender.sent() == [[1]]

    def test_passes_at_once_if_the_wall_clock_was_set_forward(self, make) -> None:
        sender = make("send_interval = 60s")
        sender.capture(1)
        sender.clock.wall += 86_400
        assert sender.step() == 0.0

    def test_begins_anew_for_the_next_reading(self, make) -> None:
        sender = make("send_interval = 60s")
        sender.capture(1)
        sender.step()
        sender.clock.advance(60)
        sender.step()
        sender.capture(1, at_us=NOW_US + 60_000_000)
        assert sender.step() == pytest.approx(60)

    def test_of_nothing_sends_what_is_there(self, make) -> None:
        sender = make()
        sender.capture(1, at_us=NOW_US + 3_600_000_000)
        assert sender.step() == 0.0
        assert sender.sent() == [[1]]


class TestADatabaseThatCannotBeUsedForAWhile:
    @pytest.mark.parametrize(("outcome", "status"), [(DELIVERED, "SENT"), (BUSY, "FAILED")])
    def test_gets_the_outcome_later_and_nothing_is_sent_again(
        self, make, repository, outcome, status
    ) -> None:
        sender = make()
        sender.capture(2)
        sender.client.outcome = outcome
        sender.own.failing = ("settle",)
        for _ in range(3):
            with pytest.raises(StorageUnavailable):
                sender.step()
        assert sender.batch_sender.in_hand
        sender.own.failing = ()
        sender.step()
        assert not sender.batch_sender.in_hand
        assert len(sender.client.requests) == 1
        assert batch_ranges(repository) == [(1, 2, status)]

    def test_before_the_request_sends_it_once_later(self, make) -> None:
        sender = make()
        sender.capture(2)
        sender.own.failing = ("read_claim",)
        with pytest.raises(StorageUnavailable):
            sender.step()
        assert sender.client.requests == []
        sender.own.failing = ()
        sender.step()
        assert sender.sent() == [[1, 2]]

    def test_at_the_end_is_given_one_more_chance(self, make, repository) -> None:
        sender = make()
        sender.capture(2)
        sender.own.failing = ("settle",)
        with pytest.raises(StorageUnavailable):
            sender.step()
        sender.own.failing = ()
        sender.finish()
        assert batch_ranges(repository) == [(1, 2, "SENT")]
        assert len(sender.client.requests) == 1


def test_what_is_left_over_in_parts_goes_by_turns_with_what_is_fresh(make, repository) -> None:
    sender = make("batch_size = 3")
    sender.capture(6)
    for outcome in (BUSY, DELIVERED) * 3:
        claim = repository.claim_fresh("another", POLICY, WALL, 1)
        repository.settle(claim, outcome, RULES, WALL)
        set_sink(repository, state="UP")
    sender.capture(7)
    while sender.step() == 0.0:
        pass
    assert sender.sent() == [[1], [7, 8, 9], [3], [10, 11, 12], [5], [13]]


class TestAClaim:
    def test_that_was_lost_meanwhile_is_not_settled(self, make, repository, caplog) -> None:
        sender = make()
        sender.capture(2)
        sender.client.during = lambda: repository.reclaim(1, OWNER, WALL, at_most_once=False)
        sender.step()
        assert batch_ranges(repository) == [(1, 2, "FAILED")]
        assert not sender.batch_sender.in_hand
        assert "claim_lost batch=1-2" in caplog.text

    def test_of_what_cannot_be_encoded_is_halved(self, make, repository, caplog):
        def encode(messages, stream, batch_size):
            if any(message.id == 4 for message in messages):
                raise ValueError("out of range")
            return encode_array(messages, stream, batch_size)

        sender = make(encode=encode)
        sender.capture(4)
        sender.step()
        assert sender.client.requests == []
        assert batch_ranges(repository) == [(1, 2, "FAILED"), (3, 4, "FAILED")]
        assert batch(repository, 3, "last_error") == ("ValueError: out of range",)
        assert caplog.text.count("send_failed ValueError: out of range") == 1
        assert "in encode" in caplog.text

    def test_for_which_there_is_no_memory_is_left_to_another_process(
        self, make, repository
    ) -> None:
        shortages = [MemoryError()]

        def encode(messages, stream, batch_size):
            if shortages:
                raise shortages.pop()
            return encode_array(messages, stream, batch_size)

        sender = make(encode=encode)
        sender.capture(4)
        with pytest.raises(MemoryError):
            sender.step()
        assert batch_ranges(repository) == [(1, 4, "SENDING")]

    def test_with_rows_missing_is_halved_and_nothing_of_it_is_sent(
        self, make, repository, caplog
    ) -> None:
        sender = make()
        sender.capture(4)
        execute(repository, "DELETE FROM message WHERE id = 4")
        sender.step()
        assert sender.client.requests == []
        assert batch_ranges(repository) == [(1, 2, "FAILED"), (3, 4, "FAILED")]
        assert "1 rows are missing: run sensor-node-ctl audit" in caplog.text
        assert batch(repository, 1, "last_error") == (
            "1 rows are missing: run sensor-node-ctl audit",
        )
        execute(
            repository,
            "INSERT INTO message(id, status, name, value, timestamp_us)"
            " VALUES (4, 'FAILED', 'room', 1, 1)",
        )

    def test_with_its_only_row_missing_backs_off(self, make, repository) -> None:
        sender = make()
        sender.capture(1)
        execute(repository, "DELETE FROM message WHERE id = 1")
        sender.step()
        status, due = batch(repository, 1, "status", "next_attempt_at")
        assert status == "FAILED"
        assert due > WALL
        assert sender.client.requests == []
        execute(
            repository,
            "INSERT INTO message(id, status, name, value, timestamp_us)"
            " VALUES (1, 'FAILED', 'room', 1, 1)",
        )

    def test_of_a_sound_batch_is_all_that_is_touched(self, make, repository) -> None:
        sender = make("batch_size = 2")
        sender.capture(3)
        sender.step()
        assert batch_ranges(repository) == [(1, 2, "SENT")]


class TestTheNextWholeBatch:
    """It is claimed while the one before is settled."""

    def test_is_in_hand_then_and_sent_by_the_next_step(self, make, repository) -> None:
        sender = make("batch_size = 2")
        sender.capture(5)
        assert sender.step() == 0.0
        assert batch_ranges(repository) == [(1, 2, "SENT"), (3, 4, "SENDING")]
        before = sender.locked
        assert sender.step() == 0.0
        assert sender.locked == before + 1
        assert sender.sent() == [[1, 2], [3, 4]]
        assert batch_ranges(repository) == [(1, 2, "SENT"), (3, 4, "SENT")]

    def test_is_sent_before_the_end_and_is_the_last(self, make, repository) -> None:
        sender = make("batch_size = 2")
        sender.capture(6)
        sender.step()
        sender.finish()
        assert sender.sent() == [[1, 2], [3, 4]]
        assert batch_ranges(repository) == [(1, 2, "SENT"), (3, 4, "SENT")]

    def test_is_not_claimed_when_the_end_settles_what_could_not_be(self, make, repository) -> None:
        sender = make("batch_size = 2")
        sender.capture(4)
        sender.own.failing = ("settle_and_claim",)
        with pytest.raises(StorageUnavailable):
            sender.step()
        sender.own.failing = ()
        sender.finish()
        assert sender.sent() == [[1, 2]]
        assert batch_ranges(repository) == [(1, 2, "SENT")]

    def test_is_left_to_others_once_the_claim_is_lost(self, make, repository, caplog) -> None:
        sender = make("batch_size = 2")
        sender.capture(4)
        sender.client.during = lambda: repository.reclaim(1, OWNER, WALL, at_most_once=False)
        assert sender.step() == 0.0
        assert "claim_lost batch=1-2" in caplog.text
        assert batch_ranges(repository) == [(1, 2, "FAILED")]

    def test_is_left_to_others_while_the_sink_is_slow(self, make, repository) -> None:
        sender = make("batch_size = 2")
        sender.capture(4)
        sender.client.during = lambda: sender.clock.advance(QUICK_SECONDS)
        sender.step()
        assert batch_ranges(repository) == [(1, 2, "SENT")]

    def test_waits_when_the_sink_refuses(self, make, repository) -> None:
        sender = make("batch_size = 2")
        sender.capture(4)
        sender.client.outcome = SILENT
        sender.step()
        assert batch_ranges(repository) == [(1, 2, "FAILED")]

    def test_waits_for_what_an_outage_has_left_over(self, make, repository) -> None:
        sender = make("batch_size = 2")
        sender.capture(6)

        def outage():
            fail(repository, 2, due_at=WALL - 10)
            set_sink(repository, since=WALL - 5)

        sender.client.during = outage
        sender.step()
        sender.client.during = None
        sender.step()
        assert sender.sent() == [[1, 2], [3, 4]]

    def test_keeps_to_the_rate_limit(self, make, repository) -> None:
        sender = make("max_rate = 2\nbatch_size = 2")
        sender.capture(4)
        sender.step()
        assert batch_ranges(repository) == [(1, 2, "SENT")]


class TestABatchOverOneMebibyte:
    @pytest.fixture
    def sender(self, make, repository):
        """10,000 readings of about 340 bytes each."""
        sender = make("batch_size = 10000")
        long = [Reading("n" * 128, float(i), NOW_US) for i in range(10_000)]
        repository.begin_run(replace(WHO, node="x" * 128), WALL, "a run")
        assert repository.capture(long, [], WALL, ROOM)
        return sender

    def test_is_halved_due_now_and_not_sent(self, sender, repository) -> None:
        sender.step()
        assert sender.client.requests == []
        assert batch_ranges(repository) == [(1, 5000, "FAILED"), (5001, 10_000, "FAILED")]
        due, error = batch(repository, 1, "next_attempt_at", "last_error")
        assert due <= WALL
        assert error is None

    def test_teaches_the_process_how_many_fit(self, sender, repository) -> None:
        sender.step()
        limit = sender.batch_sender.limit
        assert 2000 < limit < 4000
        fill(repository, 10_000)
        sender.step()
        assert len(sender.sent()[0]) == limit
        assert max(len(body) for body, _ in sender.client.requests) <= MAX_BODY_BYTES

    def test_does_not_wait_for_more_than_fits(self, sender, make, repository) -> None:
        sender = make("batch_size = 10000\nsend_interval = 60s")
        sender.step()
        limit = sender.batch_sender.limit
        fill(repository, limit, first_us=NOW_US)
        assert sender.step() == 0.0
        assert len(sender.sent()[0]) == limit

    def test_of_one_message_is_sent_all_the_same(self, make, repository, monkeypatch) -> None:
        monkeypatch.setattr("sensor_node.delivery.batch_sender.MAX_BODY_BYTES", 10)
        sender = make()
        sender.capture(1)
        sender.step()
        assert sender.sent() == [[1]]


class TestTheEnd:
    def test_closes_the_client_and_the_database(self, make) -> None:
        sender = make()
        sender.capture(1)
        sender.step()
        sender.finish()
        assert sender.client.closed
        with pytest.raises(Exception, match="closed"):
            sender.own.counts()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EMFILE, "untranslated"), "too many open files"),
        (ImportError("untranslated", name="requests"), "module requests cannot be loaded"),
    ],
)
def test_a_library_that_cannot_be_loaded_is_waited_for(make, repository, error, reason) -> None:
    sender = make("batch_size = 3")
    sender.unloadable = error
    sender.capture(3)
    sender.step()
    sink = repository.backlog(0.0).sink
    assert sink.reason.endswith(reason)
    assert "LimitNOFILE" in sink.hint
    assert rows(repository, "SELECT status, fate_unknown FROM batch") == [("FAILED", 0)]


@pytest.mark.parametrize("where", ["loading", "sending"])
def test_an_error_that_nobody_foresaw_is_an_outcome_and_its_stack_is_told_once(
    make, repository, caplog, where
) -> None:
    sender = make("batch_size = 1")
    error = RuntimeError("a surprise,\n\x1b[2J told in two lines")
    if where == "loading":
        sender.unloadable = error
    else:
        sender.client.error = error
    sender.capture(2)
    sender.step()
    sink = repository.backlog(0.0).sink
    assert (sink.up, sink.reason) == (False, "RuntimeError: a surprise, [2J told in two lines")
    assert "the log has the details" in sink.hint
    unknown = int(where == "sending")
    assert rows(repository, "SELECT status, fate_unknown FROM batch") == [("FAILED", unknown)]
    set_sink(repository, state="UP")
    error.with_traceback(None)  # another one, raised in the same place
    sender.step()
    [line] = [record.getMessage() for record in caplog.records if "send_failed" in record.msg]
    assert "test_delivery_service.py" in line


def test_every_reading_is_accounted_for_while_senders_take_turns(make, repository) -> None:
    senders = [make("batch_size = 7", owner=f"sender:boot:{pid}:1") for pid in range(1, 4)]
    for turn in range(30):
        assert repository.capture(readings(5, NOW_US), [], WALL, ROOM)
        senders[turn % 3].step()
        assert audit(repository) == []
    while any(sender.step() == 0.0 for sender in senders):
        pass
    sent = sorted(number for sender in senders for each in sender.sent() for number in each)
    assert sent == list(range(1, 151))
