"""Sensors with whose readings the sink fails, in simulated time: others arrive (P8)."""

import random
from dataclasses import replace

import pytest
from storage_fixtures import BUSY, DELIVERED, ERROR, POLICY, ROOM, RULES, SILENT, events

from sensor_node.core.model import Reading
from sensor_node.storage.queue import claiming

START = 1_000_000.0
REQUEST_SECONDS = 0.05
TIMEOUT_SECONDS = 1.0
IDLE_SECONDS = 0.1
# Until then it may be found out.
AFTER_SECONDS = 120.0


class Node:
    """Two senders and a retrier; sensors "a" to "z" are read so often a second."""

    def __init__(self, repository, rates, answer, rules=RULES):
        self.repository = repository
        self.rules = rules
        self.rates = rates
        self.answer = answer
        self.now = START
        self.names = [""]
        self.captured_at = [START]
        self.sent_at = {}
        self.requests = 0
        self._read = dict.fromkeys(rates, 0)

    def run(self, seconds):
        end, looked_at = self.now + seconds, self.now
        while self.now < end:
            self._capture()
            if self.now - looked_at >= 1:
                looked_at = self.now
                while self.repository.let_in(self.now):
                    pass
            if not self._work():
                self.now += IDLE_SECONDS

    def _capture(self):
        due = []
        for name, rate in self.rates.items():
            while (at := START + (self._read[name] + 1) / rate) <= self.now:
                self._read[name] += 1
                due.append((at, name))
        if not due:
            return
        found = [Reading(name, 1.0, int(at * 1e6)) for at, name in sorted(due)]
        assert self.repository.capture(found, [], self.now, ROOM) == len(found)
        self.names += [name for _, name in sorted(due)]
        self.captured_at += [self.now] * len(due)

    def _work(self):
        """All three at the same time; the slowest answer is waited for."""
        node, now, took = self.repository, self.now, 0.0
        claims = [
            *(
                node.claim_left_over(sender, POLICY, now, 100)
                or node.claim_fresh(sender, POLICY, now, 100)
                for sender in ("sender-1", "sender-2")
            ),
            node.claim_due("retrier", POLICY, now, 100)
            or node.claim_probe("retrier", POLICY, now, 100),
        ]
        for claim in filter(None, claims):
            ids = range(claim.first_id, claim.last_id + 1)
            outcome = self.answer(self, ids)
            seconds = REQUEST_SECONDS if outcome is not SILENT else TIMEOUT_SECONDS
            took, self.requests = max(took, seconds), self.requests + 1
            assert node.settle(claim, outcome, self.rules, now + seconds)
            if outcome is DELIVERED:
                self.sent_at.update(dict.fromkeys(ids, now + seconds))
        self.now += took
        return any(claims)

    def in_time(self, name):
        """Which share of the sensor's readings was sent within a minute, once the bad is known."""
        ids = [
            number
            for number, at in enumerate(self.captured_at)
            if self.names[number] == name and START + AFTER_SECONDS <= at <= self.now - 60
        ]
        sent = [n for n in ids if self.sent_at.get(n, self.now) - self.captured_at[n] <= 60]
        return len(sent) / len(ids)


def fails_with(names, outcome, share=1.0):
    """Batches that have a reading of these sensors among them, or of such a share of theirs."""
    chance = random.Random("bad readings")
    bad = {}

    def answer(node, ids):
        for number in ids:
            if node.names[number] in names and bad.setdefault(number, chance.random() < share):
                return outcome
        return DELIVERED

    return answer


@pytest.fixture(autouse=True)
def same_jitter_each_time():
    random.seed(3)


OVERLOADED = replace(BUSY, retry_after=None)
by_detail = pytest.mark.parametrize(
    "outcome", [ERROR, OVERLOADED, SILENT], ids=lambda outcome: outcome.detail
)


@by_detail
@pytest.mark.parametrize(("good", "bad"), [(8.0, 2.0), (2.0, 8.0), (0.5, 8.0)])
def test_the_readings_of_others_arrive_however_rare_they_are(repository, outcome, good, bad):
    node = Node(repository, {"a": good, "b": bad}, fails_with("b", outcome))
    node.run(400)
    assert node.in_time("a") == 1
    assert len(events(repository, "sensor isolated")) == 1


@pytest.mark.parametrize(
    ("outcome", "share"),
    [
        *[(outcome, share) for outcome in (ERROR, OVERLOADED) for share in (0.1, 0.3, 0.5, 0.9)],
        *[(SILENT, 0.5), (SILENT, 0.9)],
    ],
    ids=lambda value: getattr(value, "detail", value),
)
def test_they_do_where_only_some_readings_of_the_other_are_bad(repository, outcome, share):
    """It is let in again now and then, and each time that takes longer."""
    node = Node(repository, {"a": 8.0, "b": 2.0}, fails_with("b", outcome, share))
    node.run(500)
    assert node.in_time("a") >= 0.8


def test_one_arrives_that_comes_after_very_many_bad_ones(repository, monkeypatch):
    monkeypatch.setattr(claiming, "MOST_MESSAGES", 50)
    node = Node(repository, {"a": 1 / 60, "b": 5.0}, fails_with("b", ERROR))
    node.run(900)
    assert sum(node.names[number] == "a" for number in node.sent_at) >= 12
    assert len(events(repository, "sensor isolated")) == 1


def test_what_is_given_up_after_one_answer_is_tried_as_seldom(repository):
    """And an outage of the sink condemns nothing more."""

    def answer(node, ids):
        return ERROR if is_down or any(node.names[number] == "b" for number in ids) else DELIVERED

    is_down = False
    node = Node(repository, {"a": 2.0, "b": 10.0}, answer, replace(RULES, max_attempts=1))
    node.run(120)
    assert len(events(repository, "sensor isolated")) == 1
    before, dead = node.requests, repository.counts().dead
    node.run(60)
    asked = node.requests - before
    assert repository.counts().dead - dead <= 3
    is_down = True
    before, dead = node.requests, repository.counts().dead
    node.run(60)
    assert repository.counts().dead - dead <= 1
    assert node.requests - before < asked


def test_they_do_where_two_are_bad(repository):
    node = Node(repository, {"a": 8.0, "b": 1.0, "c": 1.0}, fails_with("bc", ERROR))
    node.run(400)
    assert node.in_time("a") == 1
    assert len(events(repository, "sensor isolated")) == 2


@pytest.mark.parametrize("asked", [None, 15.0])
@pytest.mark.parametrize("window", [1.0, 15.0])
def test_a_sink_that_takes_a_request_now_and_then_sets_nobody_apart_for_long(
    repository, asked, window
):
    """It fails with any sensor's reading that comes too soon."""
    opens_at = 0.0

    def answer(node, ids):
        nonlocal opens_at
        if node.now < opens_at:
            return replace(OVERLOADED, retry_after=asked)
        opens_at = node.now + window
        return DELIVERED

    node = Node(repository, {"a": 1.0, "b": 1.0}, answer)
    node.run(1800)
    assert len(node.sent_at) > 0.4 * len(node.names)
    assert len(events(repository, "sensor isolated")) == len(events(repository, "sensor let in"))
    assert node.requests < 1800 / window * 6
