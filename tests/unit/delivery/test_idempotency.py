"""A batch's key is the same at each attempt, and never that of another body."""

import re
from dataclasses import replace

from sensor_node.core.model import Claim, Stream
from sensor_node.delivery.idempotency import idempotency_key

STREAM = Stream(first_id=1, name="9f3c2a71b0de4c55a1e07d12", wire_first=1, node="edge-01")


def claim(**changes):
    fields = {"first_id": 1042, "last_id": 1141, "owner": "o", "attempt": 1, "requeue_count": 0}
    return Claim(
        **{**fields, "epoch": 1, "accepted_total": 0, "probe": False, "stream": STREAM, **changes}
    )


def test_the_key_names_stream_and_numbers_in_double_quotes():
    key = idempotency_key(claim(), b"body")
    assert re.fullmatch(r'"9f3c2a71b0de4c55a1e07d12-1042-1141-[0-9a-f]{10}"', key)


def test_the_key_counts_in_numbers_of_the_wire():
    stream = replace(STREAM, first_id=1001, wire_first=1)
    assert "-42-141-" in idempotency_key(claim(stream=stream), b"body")


def test_an_equal_batch_has_an_equal_key_whatever_the_attempt():
    again = claim(attempt=7, epoch=9, owner="other", probe=True)
    assert idempotency_key(claim(), b"body") == idempotency_key(again, b"body")


def test_another_body_never_carries_an_old_key():
    assert idempotency_key(claim(), b"body") != idempotency_key(claim(), b"bodY")


def test_a_requeued_batch_has_another_key():
    assert idempotency_key(claim(), b"body") != idempotency_key(claim(requeue_count=1), b"body")
