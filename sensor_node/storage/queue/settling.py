"""Settles a claim: stores what came of the request for the batch, the sink and the sensors."""

import sqlite3

from sensor_node.core.model import Claim, Outcome
from sensor_node.core.settlement import Rules, settlement
from sensor_node.storage.journal import events
from sensor_node.storage.queue import batch_ranges, claiming, due, message_ids, sink_row, suspects
from sensor_node.storage.queue.rate_limit import ClaimPolicy

SURPLUS = (
    "the sink sends more than it is asked for: from now on each request has its own connection"
)


def settle(
    connection: sqlite3.Connection, claim: Claim, outcome: Outcome, rules: Rules, now: float
) -> bool:
    """SENDING -> what settlement() decides, and the sink's row with it.

    False, and nothing changed, if the claim was lost.
    """
    batch = batch_ranges.read_batch(connection, claim)
    if batch is None:
        return False
    sink = sink_row.read(connection)
    decided = settlement(batch, sink, claim, outcome, rules, now)
    batch_ranges.settle(connection, claim, decided, outcome.detail, now)
    suspects.record_outcome(connection, claim, batch, decided, sink, outcome, rules, now)
    if outcome.surplus:
        events.record(connection, now, "surplus answer", SURPLUS)
    if decided.sink.throttled and not sink.throttled:
        suspects.clear(connection)
    if decided.sink != sink:
        sink_row.write(connection, decided.sink)
        sink_row.record_change(connection, sink, decided.sink, now)
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
    """settle(), then claim_fresh() if a whole batch is PENDING and nothing is left over.

    Returns whether it was settled, and the next claim.
    """
    if not settle(connection, claim, outcome, rules, now):
        return False, None
    pending = message_ids.highest_id(connection) - message_ids.highest_claimed_id(connection)
    if pending < policy.limit(limit):
        return True, None
    if due.find_left_over(connection, now, skip_unknown=policy.at_most_once):
        return True, None
    sink = sink_row.read(connection)  # again: settle() has changed it
    return True, claiming.claim_fresh(connection, sink, claim.owner, policy, now, limit)
