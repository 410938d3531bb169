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

# One claim sets apart so many ranges of isolated sensors at most, and ends once it has set apart so
# many messages. It also looks for them among so many messages at a time.
MOST_ISOLATED_RANGES = 1000
MOST_MESSAGES = 5000
# A search for the kind of message that a probe wants looks through so many times MOST_MESSAGES.
MOST_WINDOWS = 10


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a sender must know to decide whether to claim.

    `pending`: messages that are PENDING. `oldest_pending_us`: when the first of them was captured,
    in microseconds since 1970; None if there is none. `left_over`: a FAILED batch is due that has
    not failed for its own sake. `next_send_at`: the time of the rate limit, in wall seconds.
    """

    pending: int
    oldest_pending_us: int | None
    left_over: bool
    next_send_at: float
    sink: SinkRecord


def backlog(connection: sqlite3.Connection, now: float) -> Backlog:
    first = message_ids.highest_claimed_id(connection) + 1
    pending = message_ids.highest_id(connection) - first + 1
    oldest_us = retention.captured_at_us(connection, first) if pending else None
    sink = sink_row.read(connection)
    left_over = due.find_left_over(connection, now, skip_unknown=False)
    next_send_at = rate_limit.next_send_at(connection)
    return Backlog(pending, oldest_us, left_over is not None, next_send_at, sink)


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
    claim = _claim_pending(connection, sink, owner, policy.limit(limit), now)
    return charge(connection, policy, now, claim)


def claim_probe(
    connection: sqlite3.Connection, owner: str, policy: ClaimPolicy, now: float, limit: int
) -> Claim | None:
    """PENDING or FAILED -> SENDING, as `sink.probe` says, while the sink is DOWN and it is due.

    Mostly, a probe is one message: a fresh one if there is one, else the least recently tried. So
    each probe is another message, and one that is at fault cannot keep a well sink DOWN. With
    Probe.BATCH it is the batch that is due first.
    """
    sink = sink_row.read(connection)
    if not sink.probe_due(now, policy.longest):
        return None
    skip = policy.at_most_once
    if sink.probe is Probe.BATCH:
        claim = _claim_first_due(connection, sink, owner, policy, now, limit)
        claim = claim or _claim_pending(connection, sink, owner, policy.limit(limit), now)
    else:
        claim = _claim_one_message(connection, sink, owner, policy, now)
    if claim is None and sink.isolated:
        # Only readings of isolated sensors are left to ask the sink with.
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
    claim = _claim_first_due(connection, sink, owner, policy, now, limit)
    return charge(connection, policy, now, claim)


def claim_left_over(
    connection: sqlite3.Connection, owner: str, policy: ClaimPolicy, now: float, limit: int
) -> Claim | None:
    """FAILED -> SENDING for what is due first of what has not failed for its own sake."""
    sink = sink_row.read(connection)
    if not sink.up or not may_send(connection, policy, now):
        return None
    skip = policy.at_most_once
    claim = _claim_failed(
        connection,
        sink,
        owner,
        policy.limit(limit),
        now,
        lambda: due.find_left_over(connection, now, skip_unknown=skip),
    )
    return charge(connection, policy, now, claim)


def _claim_first_due(
    connection: sqlite3.Connection,
    sink: SinkRecord,
    owner: str,
    policy: ClaimPolicy,
    now: float,
    limit: int,
) -> Claim | None:
    """FAILED -> SENDING for what is due first."""
    skip, longest = policy.at_most_once, policy.longest
    return _claim_failed(
        connection,
        sink,
        owner,
        policy.limit(limit),
        now,
        lambda: due.find_due(connection, now, longest, skip_unknown=skip),
    )


def _claim_one_message(
    connection: sqlite3.Connection, sink: SinkRecord, owner: str, policy: ClaimPolicy, now: float
) -> Claim | None:
    """PENDING or FAILED -> SENDING for one message: of the probe's kind, fresh, or any other."""
    skip = policy.at_most_once
    return (
        (
            _claim_of_probe_kind(connection, sink, owner, now)
            if sink.probe is not Probe.LONE
            else None
        )
        or _claim_pending(connection, sink, owner, 1, now)
        or _claim_failed(
            connection,
            sink,
            owner,
            1,
            now,
            lambda: due.find_least_recently_tried(connection, skip_unknown=skip),
        )
    )


def _claim_of_probe_kind(
    connection: sqlite3.Connection, sink: SinkRecord, owner: str, now: float
) -> Claim | None:
    """PENDING -> SENDING for the first message whose sensor is of the kind that the probe wants.

    PENDING -> FAILED for the messages before it, as batch ranges must leave no hole.
    """
    for _ in range(MOST_WINDOWS):
        pending = batch_ranges.oldest_pending(connection, MOST_MESSAGES)
        if pending is None:
            return None
        first, last = pending
        match = suspects.first_of_probe_kind(connection, first, last, sink.probe)
        if match is None and last - first + 1 < MOST_MESSAGES:
            return None
        if match != first:
            batch_ranges.insert_failed(connection, first, match - 1 if match else last, now)
        if match is not None:
            return batch_ranges.claim_fresh(connection, sink, owner, (match, match), now)
    return None


def _claim_pending(
    connection: sqlite3.Connection, sink: SinkRecord, owner: str, limit: int, now: float
) -> Claim | None:
    """PENDING -> SENDING for the oldest; sets apart isolated sensors' readings that come first."""
    messages_set_apart = 0
    window = max(limit, MOST_MESSAGES) if sink.isolated else limit
    for _ in range(MOST_ISOLATED_RANGES):
        pending = batch_ranges.oldest_pending(connection, window)
        if pending is None or messages_set_apart >= MOST_MESSAGES:
            return None
        first, last = pending
        isolated = suspects.first_isolated_range(connection, first, last) if sink.isolated else None
        if isolated is None or isolated.first > first:
            last = min(isolated.first - 1 if isolated else last, first + limit - 1)
            return batch_ranges.claim_fresh(connection, sink, owner, (first, last), now)
        suspects.set_apart_pending(connection, isolated, now)
        messages_set_apart += isolated.last - isolated.first + 1
    return None


def _claim_failed(
    connection: sqlite3.Connection,
    sink: SinkRecord,
    owner: str,
    limit: int,
    now: float,
    find: Callable[[], tuple[int, int] | None],
) -> Claim | None:
    """FAILED -> SENDING for what `find` finds; sets apart isolated sensors' readings on the way."""
    for _ in range(MOST_ISOLATED_RANGES):
        batch_range = find()
        if batch_range is None:
            return None
        if limit > 1 and not sink.isolated:
            batch_range = batch_ranges.join(connection, batch_range, limit, now)
        first, last = batch_range
        isolated = suspects.first_isolated_range(connection, first, last) if sink.isolated else None
        if isolated is None or isolated.first > first:
            size = min(limit, isolated.first - first) if isolated else limit
            return batch_ranges.claim_again(connection, sink, owner, batch_range, size, now)
        suspects.set_apart_failed(connection, batch_range, isolated)
    return None
