"""Claims: which messages a sender or the retrier may send next, and nobody else meanwhile."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from sensor_node.core.model import Claim
from sensor_node.core.settlement import Probe, SinkRecord
from sensor_node.storage.queue import (
    batch_ranges,
    due,
    message_ids,
    rate_limit,
    retention,
    sink_row,
    suspects,
)
from sensor_node.storage.queue.rate_limit import ClaimPolicy, charge, may_send

# Of isolated sensors' readings, set apart in one transaction; and of as many neighbours at a time.
MOST_RUNS = 1000
MOST_MESSAGES = 5000
# So many times as many are looked through for a probe of its kind.
MOST_WINDOWS = 10


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a sender must know to decide whether to claim.

    `left_over`: batches are due that have failed for the sink's sake, or were halved.
    """

    pending: int
    oldest_pending_us: int | None
    left_over: bool
    next_send_at: float
    sink: SinkRecord


def backlog(connection: sqlite3.Connection, now: float) -> Backlog:
    first = message_ids.highest_claimed_id(connection) + 1
    pending = message_ids.highest_id(connection) - first + 1
    oldest = retention.captured_at_us(connection, first) if pending else None
    sink = sink_row.read(connection)
    left_over = due.find_left_over(connection, now, skip_unknown=False)
    next_send_at = rate_limit.next_send_at(connection)
    return Backlog(pending, oldest, left_over is not None, next_send_at, sink)


def claim_fresh(
    connection: sqlite3.Connection,
    sink: SinkRecord,
    owner: str,
    policy: ClaimPolicy,
    now: float,
    limit: int,
) -> Claim | None:
    """PENDING -> SENDING, while the sink is UP and the rate limit allows it."""
    if not sink.up or not may_send(connection, policy, now):
        return None
    claim = _fresh(connection, sink, owner, policy.limit(limit), now)
    return charge(connection, policy, now, claim)


def claim_probe(
    connection: sqlite3.Connection, owner: str, policy: ClaimPolicy, now: float, limit: int
) -> Claim | None:
    """PENDING or FAILED -> SENDING, of the probe's kind, while the sink is DOWN and it is due.

    A lone message is the least recently tried; a fresh one counts as never tried. What is at fault
    by itself keeps no sink DOWN that is well, as the next probe is another. A batch is what is due
    first.
    """
    sink = sink_row.read(connection)
    if not sink.probe_due(now, policy.longest):
        return None
    skip = policy.at_most_once
    if sink.probe is Probe.BATCH:
        claim = _due(connection, sink, owner, policy, now, limit)
        claim = claim or _fresh(connection, sink, owner, policy.limit(limit), now)
    else:
        claim = _lone(connection, sink, owner, policy, now)
    if claim is None and sink.isolated:
        # Nothing else is left to ask with.
        batch_range = suspects.find_any(connection, now, policy.longest, skip_unknown=skip)
        claim = (
            batch_ranges.claim_again(connection, sink, owner, batch_range, 1, now)
            if batch_range
            else None
        )
    return charge(connection, policy, now, claim)


def claim_due(
    connection: sqlite3.Connection, owner: str, policy: ClaimPolicy, now: float, limit: int
) -> Claim | None:
    """FAILED -> SENDING for what is due first, or one message of an isolated sensor."""
    sink = sink_row.read(connection)
    if not sink.up or not may_send(connection, policy, now):
        return None
    skip, longest = policy.at_most_once, policy.longest
    if sink.isolated and (
        batch_range := suspects.find_due(connection, now, longest, skip_unknown=skip)
    ):
        probe = batch_ranges.claim_again(connection, sink, owner, batch_range, 1, now)
        return charge(connection, policy, now, probe)
    return charge(connection, policy, now, _due(connection, sink, owner, policy, now, limit))


def claim_left_over(
    connection: sqlite3.Connection, owner: str, policy: ClaimPolicy, now: float, limit: int
) -> Claim | None:
    """FAILED -> SENDING for what is due first of what has not failed for its own sake."""
    sink = sink_row.read(connection)
    if not sink.up or not may_send(connection, policy, now):
        return None
    skip = policy.at_most_once
    claim = _again(
        connection,
        sink,
        owner,
        policy.limit(limit),
        now,
        lambda: due.find_left_over(connection, now, skip_unknown=skip),
    )
    return charge(connection, policy, now, claim)


def _due(
    connection: sqlite3.Connection,
    sink: SinkRecord,
    owner: str,
    policy: ClaimPolicy,
    now: float,
    limit: int,
) -> Claim | None:
    """FAILED -> SENDING for what is due first."""
    skip, longest = policy.at_most_once, policy.longest
    return _again(
        connection,
        sink,
        owner,
        policy.limit(limit),
        now,
        lambda: due.find_due(connection, now, longest, skip_unknown=skip),
    )


def _lone(
    connection: sqlite3.Connection, sink: SinkRecord, owner: str, policy: ClaimPolicy, now: float
) -> Claim | None:
    """PENDING or FAILED -> SENDING for one message."""
    skip = policy.at_most_once
    return (
        (_of_kind(connection, sink, owner, now) if sink.probe is not Probe.LONE else None)
        or _fresh(connection, sink, owner, 1, now)
        or _again(
            connection,
            sink,
            owner,
            1,
            now,
            lambda: due.find_least_recently_tried(connection, skip_unknown=skip),
        )
    )


def _of_kind(
    connection: sqlite3.Connection, sink: SinkRecord, owner: str, now: float
) -> Claim | None:
    """PENDING -> SENDING for the first of the probe's kind; those before it wait, FAILED."""
    for _ in range(MOST_WINDOWS):
        ids = batch_ranges.fresh(connection, MOST_MESSAGES)
        if ids is None:
            return None
        first = suspects.first_of_kind(connection, *ids, sink.probe)
        if first is None and ids[1] - ids[0] + 1 < MOST_MESSAGES:
            return None
        if first != ids[0]:
            batch_ranges.insert_failed(connection, ids[0], first - 1 if first else ids[1], now)
        if first is not None:
            return batch_ranges.claim_fresh(connection, sink, owner, (first, first), now)
    return None


def _fresh(
    connection: sqlite3.Connection, sink: SinkRecord, owner: str, limit: int, now: float
) -> Claim | None:
    """PENDING -> SENDING; what there is of isolated sensors on the way is set apart."""
    apart = 0
    for _ in range(MOST_RUNS):
        ids = batch_ranges.fresh(connection, max(limit, MOST_MESSAGES) if sink.isolated else limit)
        if ids is None or apart >= MOST_MESSAGES:
            return None
        run = suspects.first_run(connection, *ids) if sink.isolated else None
        if run is None or run.first > ids[0]:
            last = min(run.first - 1 if run else ids[1], ids[0] + limit - 1)
            return batch_ranges.claim_fresh(connection, sink, owner, (ids[0], last), now)
        suspects.put_apart(connection, run, now)
        apart += run.last - run.first + 1
    return None


def _again(
    connection: sqlite3.Connection,
    sink: SinkRecord,
    owner: str,
    limit: int,
    now: float,
    find: Callable[[], tuple[int, int] | None],
) -> Claim | None:
    """FAILED -> SENDING for a range; what there is of isolated sensors on the way is set apart."""
    for _ in range(MOST_RUNS):
        batch_range = find()
        if batch_range is None:
            return None
        if limit > 1 and not sink.isolated:
            batch_range = batch_ranges.join(connection, batch_range, limit, now)
        run = suspects.first_run(connection, *batch_range) if sink.isolated else None
        if run is None or run.first > batch_range[0]:
            most = min(limit, run.first - batch_range[0]) if run else limit
            return batch_ranges.claim_again(connection, sink, owner, batch_range, most, now)
        suspects.set_apart(connection, batch_range, run)
    return None
