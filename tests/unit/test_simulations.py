"""Days with bad messages and bad sinks, in simulated time: the rules together (P6, P8)."""

import random
from dataclasses import replace

import pytest
from storage_fixtures import (
    BUSY,
    DELIVERED,
    ERROR,
    POLICY,
    REFUSED,
    ROOM,
    RULES,
    SILENT,
    UNAUTHORIZED,
    UNREACHABLE,
    batch_ranges,
    deliver,
    events,
    fill,
    readings,
    rows,
)

HOUR = 3600.0
DAY = 24 * HOUR
REQUEST_SECONDS = 0.05
MOST_REQUESTS = 20_000
NEXT = """
SELECT min(at) FROM (
  SELECT min(next_attempt_at) AS at FROM batch WHERE status = 'FAILED' AND
    (SELECT state FROM sink) = 'UP'
  UNION ALL SELECT next_probe_at FROM sink WHERE state = 'DOWN')
"""


class Appliance:
    """Two senders and a retrier at the queue; `answer(ids)` is the sink."""

    def __init__(self, repository, answer, rules=RULES, batch_size=100):
        self.repository = repository
        self.answer = answer
        self.rules = rules
        self.batch_size = batch_size
        self.now = 1_000_000.0
        self.requests = []  # (when, ids)

    def capture(self, count):
        assert self.repository.capture(readings(count), [], self.now, ROOM)

    def run(self, until, every=None):
        """Until that time; with `every`, one message is captured so often."""
        capture_at = self.now + (every or float("inf"))
        while self.now < until:
            if self.now >= capture_at:
                self.capture(1)
                capture_at += every
            if not self._work():
                [(at,)] = rows(self.repository, NEXT)
                self.now = max(self.now, min(until, capture_at, at or until))

    def _work(self):
        """Each process does one thing, all at the same time. Returns whether any did."""
        repository, now = self.repository, self.now
        claims = [
            *(
                repository.claim_left_over(name, POLICY, now, self.batch_size)
                or repository.claim_fresh(name, POLICY, now, self.batch_size)
                for name in ("sender-1", "sender-2")
            ),
            repository.claim_due("retrier", POLICY, now, self.batch_size)
            or repository.claim_probe("retrier", POLICY, now, 100),
        ]
        busy = [claim for claim in claims if claim]
        if busy:
            self.now += REQUEST_SECONDS
        for claim in busy:
            ids = [message.id for message in repository.read_claim(claim)]
            self.requests.append((now, ids))
            assert len(self.requests) < MOST_REQUESTS, "the sink is flooded"
            assert repository.settle(claim, self.answer(ids), self.rules, self.now)
        return bool(busy)


def objects_to(bad, outcome):
    return lambda ids: DELIVERED if bad.isdisjoint(ids) else outcome


def ids_of(repository, status):
    return {
        number for (number,) in rows(
            repository, "SELECT id FROM message WHERE status = :status", status=status)
    }  # fmt: skip


@pytest.mark.parametrize("outcome", [ERROR, BUSY, SILENT, UNREACHABLE, UNAUTHORIZED])
@pytest.mark.parametrize(("every", "duration"), [(HOUR, DAY), (10.0, HOUR)])
def test_a_poison_batch_never_stops_the_rest(repository, outcome, every, duration):
    """Only a message an hour shows that the sink is well; the poison is tried all the while."""
    poison = {3}
    appliance = Appliance(repository, objects_to(poison, outcome))
    appliance.capture(10)
    appliance.run(appliance.now + duration, every)
    captured = 10 + int(duration / every) - 1
    assert ids_of(repository, "SENT") == set(range(1, captured + 1)) - poison
    assert ids_of(repository, "FAILED") == poison
    # The poison is backed off from: at the cap of 300 s a draw is 150 s in the mean.
    tried = sum(3 in ids for _, ids in appliance.requests)
    assert 5 < tried < duration / 150 * 2 + 40


def test_a_poison_message_is_dead_after_max_attempts_when_that_is_wished(repository):
    appliance = Appliance(repository, objects_to({3}, ERROR), replace(RULES, max_attempts=5))
    appliance.capture(10)
    appliance.run(appliance.now + DAY, HOUR)
    assert ids_of(repository, "DEAD") == {3}
    assert ids_of(repository, "FAILED") == set()


@pytest.mark.parametrize("seed", range(3))
def test_one_bad_message_in_a_hundred_never_blocks_the_rest_and_ends_dead(repository, seed):
    chance = random.Random(seed)
    bad = {number for number in range(1, 5001) if chance.random() < 0.01}
    appliance = Appliance(repository, objects_to(bad, REFUSED))
    appliance.capture(5000)
    appliance.run(appliance.now + 60)
    assert len(ids_of(repository, "SENT")) > 4900  # the rest does not wait for the bad ones
    appliance.run(appliance.now + HOUR, 60.0)
    assert ids_of(repository, "DEAD") == bad
    assert ids_of(repository, "SENT") == set(range(1, repository.counts().captured + 1)) - bad
    assert len(appliance.requests) < 50 + 60 + len(bad) * 2 * 10


def test_a_run_of_bad_messages_is_dead_in_the_end_and_all_others_delivered(repository):
    bad = set(range(120, 170))
    appliance = Appliance(repository, objects_to(bad, REFUSED))
    appliance.capture(300)
    appliance.run(appliance.now + DAY, 60.0)
    assert ids_of(repository, "DEAD") == bad
    assert ids_of(repository, "FAILED") == set()


def test_a_sink_that_refuses_everything_is_soon_down_and_condemns_nothing(repository):
    """It does not get the whole backlog, cut to pieces, before anybody notices."""
    appliance = Appliance(repository, lambda ids: REFUSED)
    appliance.capture(20_000)
    appliance.run(appliance.now + 10)
    sink = repository.backlog(0.0).sink
    assert not sink.up
    before = len(appliance.requests)
    assert before < 40
    assert repository.counts().pending > 18_000

    appliance.run(appliance.now + DAY)
    probes = appliance.requests[before:]
    assert len(probes) < DAY / 300 * 4
    assert {len(ids) for _, ids in probes} == {1}
    assert repository.counts().dead == 0

    appliance.answer = lambda ids: DELIVERED
    appliance.run(appliance.now + HOUR)
    assert repository.counts().sent == 20_000


def test_an_outage_of_a_day_costs_few_requests_and_everything_arrives_after_it(repository):
    appliance = Appliance(repository, lambda ids: UNREACHABLE)
    appliance.run(appliance.now + DAY, 60.0)
    assert len(appliance.requests) < DAY / 300 * 4
    appliance.answer = lambda ids: DELIVERED
    appliance.run(appliance.now + 400)
    assert repository.counts().undelivered == 0
    assert events(repository, "sink down") == [UNREACHABLE.detail]
    assert len(events(repository, "sink up")) == 1


def test_a_second_outage_cuts_no_backlog_to_pieces(repository):
    appliance = Appliance(repository, lambda ids: UNREACHABLE, batch_size=10)
    appliance.capture(100)
    appliance.run(appliance.now + HOUR)
    whole = [last - first + 1 for first, last, _ in batch_ranges(repository)][:2]
    assert whole == [10, 10], "of the two senders; each probe was one message"

    answers = iter([DELIVERED])
    appliance.answer = lambda ids: next(answers, UNREACHABLE)
    appliance.run(appliance.now + HOUR, 60.0)
    sizes = [
        last - first + 1 for first, last, status in batch_ranges(repository) if status == "FAILED"
    ]
    assert min(sizes[:2]) >= 5  # once, for the one thing that the sink took


@pytest.mark.parametrize("asked", [None, 15.0])
@pytest.mark.parametrize(
    ("window", "size", "least"), [(15.0, 1000, 1000), (60.0, 1000, 200), (0.0, 20, 1000)]
)
def test_a_sink_that_takes_a_request_now_and_then_gets_all_that_fits(
    repository, asked, window, size, least
):
    """Also if so many messages are too many for it, and whether or not it says how long to wait."""
    throttled = replace(BUSY, retry_after=asked)
    opens_at = 0.0

    def answer(ids):
        nonlocal opens_at
        if appliance.now < opens_at or len(ids) > size:
            return throttled
        opens_at = appliance.now + window
        return DELIVERED

    appliance = Appliance(repository, answer)
    appliance.capture(3000)
    appliance.run(appliance.now + HOUR)
    # With lone probes it would be one message a window.
    assert len(ids_of(repository, "SENT")) >= least


def test_while_the_sink_is_down_there_is_one_request_at_a_time(repository):
    appliance = Appliance(repository, lambda ids: UNREACHABLE, batch_size=10)
    appliance.capture(1000)
    appliance.run(appliance.now + HOUR)
    down = [at for at, _ in appliance.requests if at > appliance.requests[0][0]]
    assert len(down) == len(set(down))


def test_an_outage_is_followed_by_the_oldest_first(repository):
    """Each probe took another message, the oldest of what was PENDING."""
    appliance = Appliance(repository, lambda ids: ERROR, batch_size=10)
    appliance.capture(10_000)
    appliance.run(appliance.now + DAY)
    assert len(batch_ranges(repository)) > 200
    before = len(appliance.requests)
    appliance.answer = lambda ids: DELIVERED
    appliance.run(appliance.now + HOUR)
    probe, *after = [ids[0] for _, ids in appliance.requests[before:]]
    assert len([probe, *after]) > 900
    together = 3  # two senders and the retrier
    newest = 0
    for first in after:
        newest = max(newest, first)
        assert newest - first <= 10 * together, (first, newest)


def test_an_outage_with_more_probes_than_batches_is_followed_by_the_oldest_first(repository):
    """The retrier tries them by turns, which changes nothing in their order."""
    appliance = Appliance(repository, lambda ids: ERROR, batch_size=10)
    appliance.capture(200)
    appliance.run(appliance.now + DAY)
    before = len(appliance.requests)
    appliance.answer = lambda ids: DELIVERED
    appliance.run(appliance.now + HOUR)
    _, *after = [ids[0] for _, ids in appliance.requests[before:]]
    assert after == sorted(after)
    assert len(after) < 50, "they are joined: else each of 199 would be a request"


def test_an_outage_that_comes_again_at_once_costs_no_request_for_each_batch_left_over(repository):
    appliance = Appliance(repository, lambda ids: ERROR, batch_size=10)
    appliance.capture(10_000)
    appliance.run(appliance.now + DAY)
    left = len(batch_ranges(repository))
    before = len(appliance.requests)
    answers = iter([DELIVERED])
    appliance.answer = lambda ids: next(answers, ERROR)
    appliance.run(appliance.now + HOUR)
    assert len(appliance.requests) - before < 60 < left
    assert not repository.backlog(0.0).sink.up


def test_a_sink_that_flaps_gets_everything_all_the_same(repository):
    chance = random.Random(1)
    outcomes = [DELIVERED, DELIVERED, BUSY, SILENT, UNREACHABLE, UNAUTHORIZED]
    appliance = Appliance(repository, lambda ids: chance.choice(outcomes), batch_size=10)
    appliance.capture(300)
    appliance.run(appliance.now + 2 * DAY, HOUR)
    counts = repository.counts()
    assert (counts.undelivered, counts.dead) == (0, 0)


def test_a_clock_that_jumps_stops_nothing_for_good(repository):
    """An hour forward while the sink is down, then ten years back."""
    appliance = Appliance(repository, lambda ids: UNREACHABLE)
    appliance.capture(50)
    appliance.run(appliance.now + HOUR)
    appliance.now += 10 * 365 * DAY
    appliance.run(appliance.now + HOUR)
    appliance.now -= 10 * 365 * DAY
    appliance.answer = lambda ids: DELIVERED
    appliance._work()
    while appliance._work():
        pass
    assert repository.counts().sent == 50


def test_delivery_is_in_order_while_nothing_fails(repository):
    fill(repository, 1000)
    first = [deliver(repository, 100).first_id for _ in range(10)]
    assert first == sorted(first)
