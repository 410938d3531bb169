"""A sender's turn at the queue: settle the batch in hand, claim the next."""

import sqlite3
from dataclasses import dataclass

from sensor_node.model import Claim, Outcome
from sensor_node.settlement import Rules, SinkRecord, settlement
from sensor_node.storage import due, rate_limit, retention, sink_row, tiles
from sensor_node.storage.rate_limit import ClaimPolicy, may_send, paid


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a sender must know to decide whether to claim.

    `left_over`: batches failed while the sink was DOWN, and none has tried them since.
    """

    pending: int
    oldest_pending_us: int | None
    left_over: bool
    next_send_at: float
    sink: SinkRecord


def backlog(connection: sqlite3.Connection) -> Backlog:
    first = tiles.claimed(connection) + 1
    pending = tiles.captured(connection) - first + 1
    oldest = retention.captured_at_us(connection, first) if pending else None
    sink = sink_row.read(connection)
    left_over = due.find_left_over(connection, sink, sink.since, skip_unknown=False)
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
    claim = tiles.claim_fresh(connection, sink, owner, policy.limit(limit), now)
    return paid(connection, policy, now, claim)


def claim_probe(
    connection: sqlite3.Connection, owner: str, policy: ClaimPolicy, now: float, limit: int
) -> Claim | None:
    """PENDING or FAILED -> SENDING, while the sink is DOWN and a probe is due."""
    sink = sink_row.read(connection)
    if not sink.probe_due(now, policy.longest):
        return None
    limit = policy.limit(limit)
    fresh = 1 if sink.refusing else limit
    claim = tiles.claim_fresh(connection, sink, owner, fresh, now)
    if claim is None:
        tile = due.find_least_recently_tried(connection, skip_unknown=policy.at_most_once)
        if tile is None:
            return None
        claim = tiles.claim_again(connection, sink, owner, tile, limit, now)
    return paid(connection, policy, now, claim)


def settle(
    connection: sqlite3.Connection, claim: Claim, outcome: Outcome, rules: Rules, now: float
) -> bool:
    """SENDING -> what settlement() decides, and the sink's state with it; False: a lost claim."""
    batch = tiles.read_batch(connection, claim)
    if batch is None:
        return False
    sink = sink_row.read(connection)
    decided = settlement(batch, sink, claim, outcome, rules, now)
    tiles.settle(connection, claim, decided, outcome.detail, now)
    if decided.sink != sink:
        sink_row.write(connection, decided.sink)
        sink_row.note(connection, sink, decided.sink, now)
    return True


def settle_and_claim(
    connection: sqlite3.Connection,
    claim: Claim,
    outcome: Outcome,
    rules: Rules,
    policy: ClaimPolicy,
    now: float,
    limit: int,
) -> tuple[bool, Claim | None]:
    """Both, but claim only what is whole, and nothing while an outage has left something over."""
    if not settle(connection, claim, outcome, rules, now):
        return False, None
    pending = tiles.captured(connection) - tiles.claimed(connection)
    if pending < policy.limit(limit):
        return True, None
    sink = sink_row.read(connection)  # what was settled has changed it
    if due.find_left_over(connection, sink, sink.since, skip_unknown=policy.at_most_once):
        return True, None
    return True, claim_fresh(connection, sink, claim.owner, policy, now, limit)
