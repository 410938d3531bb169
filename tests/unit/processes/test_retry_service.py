"""The retrier sends what is due, probes a sink that is down, and takes over from dead processes."""

import errno
import json
import os
import time

import pytest
from clocks import WALL, ManualClock
from storage_fixtures import (
    BUSY,
    DELIVERED,
    RULES,
    SILENT,
    UNAUTHORIZED,
    LockCounter,
    batch,
    batch_ranges,
    events,
    execute,
    fail,
    fill,
    rows,
    set_sink,
    statuses,
)
from storage_fixtures import POLICY as ANY_POLICY

from sensor_node.config.loader import load_config
from sensor_node.core.errors import StorageUnavailable
from sensor_node.core.schedule import RETRY_AFTER_CAP_SECONDS
from sensor_node.delivery.batch_sender import BatchSender
from sensor_node.processes import owner
from sensor_node.processes.retry_service import LOOK_AROUND_SECONDS, RetryService
from sensor_node.storage.repository import SensorDataSQLRepository

OWNER = "retrier:boot:1:1"
DEAD_SENDER = "sender:another-boot:1:1"
MAX_DELAY = 300.0
# The kernel's clock for files ticks each 4 ms, or 10.
KERNEL_TICK_SECONDS = 0.02


class Client:
    """Answers as it is told. `files`: what it reads."""

    def __init__(self, files):
        self.files = frozenset(files)
        self.requests = []
        self.outcome = DELIVERED
        self.closed = False

    def post(self, body, key):
        self.requests.append((body, key))
        return self.outcome

    def close(self):
        self.closed = True


class Retrier(LockCounter):
    """A retrier beside another process, `repository`."""

    def __init__(self, place, repository, options=""):
        file = place / "config.ini"
        file.write_text(f"[sensor:room]\n[sink]\n{options}\n")
        self.config = load_config(file)
        self.clock = ManualClock()
        self.client = Client(self.config.sink.secret_files)
        self.rings = 0
        self.own = SensorDataSQLRepository(repository.path, self)
        self.batch_sender = BatchSender(
            self.config, self.own, lambda: self.client, self.clock, self.ring
        )
        self.service = RetryService(self.config, OWNER, self.own, self.batch_sender)

    def ring(self):
        self.rings += 1

    def step(self):
        return self.service.step(self.clock.now())

    def finish(self):
        self.service.finish(self.clock.now())

    def sent(self):
        """The numbers of the messages in each request."""
        return [
            [int(message["id"].rpartition("-")[2]) for message in json.loads(body)]
            for body, _ in self.client.requests
        ]


@pytest.fixture
def make(place, repository):
    made = []

    def make_retrier(options=""):
        made.append(Retrier(place, repository, options))
        return made[-1]

    yield make_retrier
    for retrier in made:
        if not retrier.client.closed:
            retrier.finish()


def claim(repository, count, owner_text):
    """A fresh batch in the hands of another process."""
    return repository.claim_fresh(owner_text, ANY_POLICY, WALL, count)


class TestABatchThatFailed:
    def test_is_sent_when_it_is_due_and_not_before(self, make, repository) -> None:
        retrier = make()
        fill(repository, 2)
        fail(repository, 2, due_at=WALL + 10)
        assert retrier.step() == LOOK_AROUND_SECONDS
        retrier.clock.advance(9.75)
        assert retrier.step() == pytest.approx(0.25)
        assert retrier.client.requests == []
        retrier.clock.advance(0.25)
        assert retrier.step() == 0.0
        assert retrier.sent() == [[1, 2]]
        assert set(statuses(repository).values()) == {"SENT"}

    def test_is_sent_before_others_that_are_due_later(self, make, repository) -> None:
        retrier = make()
        fill(repository, 3)
        for due_in in (3, 1, 2):
            fail(repository, 1, due_at=WALL - 10 + due_in)
        while retrier.step() == 0.0:
            pass
        assert retrier.sent() == [[2], [3], [1]]

    def test_is_due_if_its_deadline_is_further_ahead_than_any_honest_one(
        self, make, repository
    ) -> None:
        retrier = make()
        fill(repository, 2)
        fail(repository, 1, due_at=WALL + RETRY_AFTER_CAP_SECONDS - 1)
        fail(repository, 1, due_at=WALL + RETRY_AFTER_CAP_SECONDS + 1)
        while retrier.step() == 0.0:
            pass
        assert retrier.sent() == [[2]]

    def test_is_sent_as_soon_as_the_rate_limit_allows_it(self, make, repository) -> None:
        retrier = make("max_rate = 10")
        fill(repository, 20)
        for _ in range(2):
            fail(repository, 10, due_at=WALL)
        assert retrier.step() == 0.0
        assert retrier.step() == pytest.approx(1.0)
        retrier.clock.advance(1.0)
        assert retrier.step() == 0.0
        assert len(retrier.client.requests) == 2

    def test_waits_longer_after_each_failure_that_is_its_own(self, make, repository) -> None:
        retrier = make()
        retrier.client.outcome = BUSY
        fill(repository, 1)
        fail(repository, 1, due_at=WALL)
        set_sink(repository, epoch=5)
        for attempts in range(2, 12):
            retrier.step()
            (count, due) = batch(repository, 1, "attempts", "next_attempt_at")
            assert count == attempts
            assert WALL < due <= retrier.clock.wall + MAX_DELAY
            retrier.clock.advance(due - retrier.clock.wall)
        assert len(retrier.client.requests) == 10

    def test_leaves_fresh_readings_to_the_senders(self, make, repository) -> None:
        retrier = make()
        fill(repository, 5)
        assert retrier.step() == LOOK_AROUND_SECONDS
        assert retrier.client.requests == []

    def test_that_there_is_none_of_takes_no_lock(self, make) -> None:
        retrier = make()
        before = retrier.locked
        for _ in range(100):
            retrier.clock.advance(LOOK_AROUND_SECONDS)
            retrier.step()
        assert retrier.locked == before

    def test_is_settled_later_if_the_database_cannot_be_used(
        self, make, repository, monkeypatch
    ) -> None:
        retrier = make()
        fill(repository, 1)
        fail(repository, 1, due_at=WALL)
        with monkeypatch.context() as patch:

            def full(*arguments):
                raise StorageUnavailable("disk full", "telemetry.db")

            patch.setattr(retrier.own, "settle", full)
            for _ in range(3):
                with pytest.raises(StorageUnavailable):
                    retrier.step()
        retrier.step()
        assert retrier.sent() == [[1]]
        assert batch_ranges(repository) == [(1, 1, "SENT")]


class TestASinkThatIsDown:
    def down(self, repository, probe_in, reason="connection refused", **columns):
        set_sink(
            repository,
            state="DOWN",
            since=WALL - 60,
            reason=reason,
            next_probe_at=WALL + probe_in,
            **columns,
        )

    def test_is_probed_when_the_probe_is_due_and_not_before(self, make, repository) -> None:
        retrier = make()
        fill(repository, 5)
        self.down(repository, probe_in=10)
        assert retrier.step() == LOOK_AROUND_SECONDS
        retrier.clock.advance(9.75)
        assert retrier.step() == pytest.approx(0.25)
        assert retrier.client.requests == []
        retrier.clock.advance(0.25)
        assert retrier.step() == 0.0
        assert retrier.sent() == [[1]]
        assert rows(repository, "SELECT state FROM sink") == [("UP",)]
        assert retrier.rings == 1, "the senders are told"

    def test_is_probed_by_one_request_and_then_waited_for(self, make, repository) -> None:
        retrier = make("batch_size = 1")
        retrier.client.outcome = SILENT
        fill(repository, 50)
        self.down(repository, probe_in=0)
        retrier.step()
        for _ in range(10):
            assert 0 < retrier.step() <= LOOK_AROUND_SECONDS
        assert len(retrier.client.requests) == 1

    def test_that_nothing_waits_for_is_looked_at_now_and_then(self, make, repository) -> None:
        retrier = make()
        self.down(repository, probe_in=-1)
        assert retrier.step() == LOOK_AROUND_SECONDS

    def test_is_probed_again_and_again_however_long_it_lasts(self, make, repository) -> None:
        retrier = make()
        retrier.client.outcome = SILENT
        fill(repository, 1)
        self.down(repository, probe_in=0)
        for _ in range(4 * 3600):
            retrier.clock.advance(1)
            retrier.step()
        # On average every max_delay / 2 seconds, and never in a burst.
        assert 60 < len(retrier.client.requests) < 150

    def test_is_probed_at_once_if_the_clock_has_jumped(self, make, repository) -> None:
        retrier = make()
        fill(repository, 1)
        self.down(repository, probe_in=RETRY_AFTER_CAP_SECONDS + 1)
        assert retrier.step() == 0.0

    def test_gets_no_batch_that_is_due_between_probes(self, make, repository) -> None:
        retrier = make()
        fill(repository, 2)
        fail(repository, 2, due_at=WALL - 100)
        self.down(repository, probe_in=60)
        assert retrier.step() == LOOK_AROUND_SECONDS
        assert retrier.client.requests == []

    def test_takes_no_lock_between_probes(self, make, repository) -> None:
        retrier = make()
        fill(repository, 2)
        self.down(repository, probe_in=3000)
        retrier.step()
        before = retrier.locked
        for _ in range(1000):
            retrier.clock.advance(LOOK_AROUND_SECONDS)
            retrier.step()
        assert retrier.locked == before

    def test_is_a_log_line_at_each_end_and_one_of_a_process_that_begins_then(
        self, make, repository, caplog
    ) -> None:
        retrier = make()
        fill(repository, 1)
        lost = claim(repository, 1, "sender")
        assert repository.settle(lost, SILENT, RULES, WALL)
        retrier.step()
        retrier.client.outcome = SILENT
        for _ in range(600):
            retrier.clock.advance(1)
            retrier.step()
        retrier.client.outcome = DELIVERED
        for _ in range(400):
            retrier.clock.advance(1)
            retrier.step()
        lines = [record.getMessage() for record in caplog.records]
        kinds = [line.partition(" ")[0] for line in lines]
        assert kinds == ["sink_down", "sink_is_down", "sink_up"]

    def test_is_a_log_line_more_for_each_change_of_the_reason(
        self, make, repository, caplog
    ) -> None:
        retrier = make()
        fill(repository, 1)
        self.down(repository, probe_in=0)
        for outcome in (SILENT, UNAUTHORIZED, UNAUTHORIZED, SILENT):
            retrier.client.outcome = outcome
            retrier.step()
            set_sink(repository, next_probe_at=0.0)
        retrier.step()
        assert [record.getMessage() for record in caplog.records] == [
            "sink_is_down connection refused",
            f"still_down {SILENT.detail}",
            f"still_down {UNAUTHORIZED.detail}",
            f"still_down {SILENT.detail}",
        ]

    def test_is_a_log_line_also_for_a_retrier_that_begins_then(
        self, make, repository, caplog
    ) -> None:
        self.down(repository, probe_in=60)
        make().step()
        assert [record.getMessage() for record in caplog.records] == [
            "sink_is_down connection refused"
        ]


class TestADeadProcess:
    def test_loses_its_claim_and_the_batch_is_sent(self, make, repository) -> None:
        retrier = make()
        fill(repository, 3)
        claim(repository, 3, DEAD_SENDER)
        assert retrier.step() == 0.0
        assert retrier.sent() == [[1, 2, 3]]
        assert events(repository, "reclaimed") == ["from sender"]

    def test_keeps_its_claim_while_no_file_can_be_opened_to_find_out(
        self, make, repository, monkeypatch
    ) -> None:
        retrier = make()
        fill(repository, 3)
        claim(repository, 3, DEAD_SENDER)

        def refuse(owner_text):
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(owner, "is_alive", refuse)
            retrier.step()
        assert batch_ranges(repository) == [(1, 3, "SENDING")]
        retrier.clock.advance(LOOK_AROUND_SECONDS)
        retrier.step()
        assert retrier.sent() == [[1, 2, 3]]

    def test_is_noticed_within_a_second(self, make, repository) -> None:
        retrier = make()
        retrier.step()
        fill(repository, 3)
        claim(repository, 3, DEAD_SENDER)
        retrier.clock.advance(LOOK_AROUND_SECONDS / 2)
        retrier.step()
        assert batch_ranges(repository) == [(1, 3, "SENDING")]
        retrier.clock.advance(LOOK_AROUND_SECONDS / 2)
        retrier.step()
        assert batch_ranges(repository) == [(1, 3, "SENT")]

    def test_is_not_one_that_lives(self, make, repository) -> None:
        retrier = make()
        fill(repository, 3)
        claim(repository, 3, owner.own_owner_id("sender"))
        for _ in range(10):
            retrier.clock.advance(LOOK_AROUND_SECONDS)
            retrier.step()
        assert batch_ranges(repository) == [(1, 3, "SENDING")]

    def test_is_one_whose_pid_is_another_processs_now(self, make, repository) -> None:
        retrier = make()
        fill(repository, 3)
        role, boot, pid, ticks = owner.own_owner_id("sender").split(":")
        claim(repository, 3, f"{role}:{boot}:{pid}:{int(ticks) - 1}")
        retrier.step()
        assert batch_ranges(repository) == [(1, 3, "SENT")]

    def test_leaves_its_batch_to_a_person_if_nothing_may_be_sent_twice(
        self, make, repository, caplog
    ) -> None:
        retrier = make("delivery = at-most-once")
        fill(repository, 3)
        claim(repository, 3, DEAD_SENDER)
        for _ in range(5):
            retrier.clock.advance(60)
            retrier.step()
        assert retrier.client.requests == []
        assert batch_ranges(repository) == [(1, 3, "IN_DOUBT")]
        assert "reclaimed from sender" in caplog.text


class TestAtMostOnce:
    def test_parks_what_may_have_arrived_before_the_mode_was_changed(
        self, make, repository
    ) -> None:
        retrier = make("delivery = at-most-once")
        fill(repository, 2)
        fail(repository, 1, due_at=WALL)
        fail(repository, 1, due_at=WALL)
        execute(repository, "UPDATE batch SET fate_unknown = 1 WHERE first_id = 1")
        while retrier.step() == 0.0:
            pass
        assert batch_ranges(repository) == [(1, 1, "IN_DOUBT"), (2, 2, "SENT")]
        assert retrier.sent() == [[2]]

    def test_parks_however_many_there_are(self, make, repository) -> None:
        retrier = make("delivery = at-most-once")
        fill(repository, 250)
        for _ in range(250):
            fail(repository, 1, due_at=WALL)
        execute(repository, "UPDATE batch SET fate_unknown = 1")
        for _ in range(5):
            retrier.clock.advance(LOOK_AROUND_SECONDS)
            retrier.step()
        assert set(statuses(repository).values()) == {"IN_DOUBT"}
        assert retrier.client.requests == []

    def test_parks_nothing_in_the_other_mode(self, make, repository) -> None:
        retrier = make()
        fill(repository, 1)
        fail(repository, 1, due_at=WALL)
        execute(repository, "UPDATE batch SET fate_unknown = 1")
        retrier.step()
        assert batch_ranges(repository) == [(1, 1, "SENT")]


class TestASecretFileThatChanges:
    """A sink that is DOWN since the token was wrong; its next probe is in an hour."""

    @pytest.fixture
    def token(self, place):
        return place / "token"

    @pytest.fixture
    def retrier(self, make, repository):
        retrier = make("token_file = token")
        fill(repository, 1)
        set_sink(repository, state="DOWN", reason="401 Unauthorized", next_probe_at=WALL + 3000)
        retrier.client.outcome = UNAUTHORIZED
        retrier.step()
        assert retrier.client.requests == []
        return retrier

    def later(self, retrier):
        retrier.clock.advance(LOOK_AROUND_SECONDS)
        retrier.step()
        return len(retrier.client.requests)

    def test_makes_the_probe_due_now(self, retrier, token) -> None:
        token.write_text("new")
        assert self.later(retrier) == 1

    def test_is_one_that_is_replaced_removed_or_only_touched(self, retrier, token) -> None:
        token.write_text("one")
        assert self.later(retrier) == 1
        new = token.with_name("new")
        new.write_text("two")
        os.replace(new, token)
        assert self.later(retrier) == 2
        os.utime(token, (1, 1))
        assert self.later(retrier) == 3
        token.unlink()
        assert self.later(retrier) == 4

    def test_is_one_that_others_may_read_now(self, retrier, token) -> None:
        token.write_text("one")
        assert self.later(retrier) == 1
        time.sleep(KERNEL_TICK_SECONDS)
        token.chmod(0o640)
        assert self.later(retrier) == 2
        time.sleep(KERNEL_TICK_SECONDS)
        os.chown(token, os.geteuid(), os.getegid())
        assert self.later(retrier) == 3

    def test_is_one_that_no_option_names_too(self, retrier, token) -> None:
        """Such as the system's CA certificates; first seen with the first request."""
        bundle = token.with_name("bundle")
        retrier.client.files |= {str(bundle)}
        token.write_text("one")
        assert self.later(retrier) == 1
        set_sink(retrier.own, next_probe_at=retrier.clock.wall + 3000)
        assert [self.later(retrier) for _ in range(3)] == [1] * 3
        bundle.write_text("repaired")
        assert self.later(retrier) == 2

    def test_makes_one_probe_due_and_not_one_each_second(self, retrier, token) -> None:
        token.write_text("wrong, too")
        self.later(retrier)
        set_sink(retrier.own, next_probe_at=retrier.clock.wall + 3000)
        assert [self.later(retrier) for _ in range(5)] == [1] * 5

    def test_is_none_of_another_kind(self, retrier, token) -> None:
        token.with_name("other").write_text("not named in [sink]")
        assert self.later(retrier) == 0

    def test_leaves_a_sink_alone_that_is_up(self, make, repository, place) -> None:
        retrier = make("token_file = token")
        fill(repository, 1)
        retrier.step()
        (place / "token").write_text("new")
        assert self.later(retrier) == 0


def test_the_end_closes_the_client_and_the_database(make, repository) -> None:
    retrier = make()
    fill(repository, 1)
    fail(repository, 1, due_at=WALL)
    retrier.step()
    retrier.finish()
    assert retrier.client.closed
    with pytest.raises(Exception, match="closed"):
        retrier.own.counts()
