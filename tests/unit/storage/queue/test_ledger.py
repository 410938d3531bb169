"""Every reading is accounted for (P3), and the audit sees every way in which one might not be."""

import pytest
from storage_fixtures import (
    POLICY,
    audit,
    deliver,
    execute,
    fail,
    fill,
    park,
    rows,
)

from sensor_node.core.model import Counts, Dropped
from sensor_node.storage.queue.room import SizeLimits

NOW = 1000.0


@pytest.fixture
def mixed(unaudited):
    """Ids 1-10 PURGED, 11-20 SENT, 21-30 FAILED, 31-40 DEAD, 41-50 IN_DOUBT, 51-60 EVICTED,
    61-70 SENDING, 71-80 PENDING."""
    fill(unaudited, 60)
    deliver(unaudited, 10)
    unaudited.purge(0, None, NOW)
    deliver(unaudited, 10)
    fail(unaudited, 10)
    park(unaudited, 10, "DEAD")
    park(unaudited, 10, "IN_DOUBT")
    with unaudited._transaction() as connection:
        connection.execute("UPDATE batch SET status = 'SENDING' WHERE status = 'FAILED'")
    unaudited.evict_oldest("max_size", NOW)
    with unaudited._transaction() as connection:
        connection.execute("UPDATE batch SET status = 'FAILED' WHERE status = 'SENDING'")
    fill(unaudited, 20)
    unaudited.claim_fresh("sender", POLICY, NOW, 10)
    unaudited.capture([], [Dropped("late", 7, 0, 1)], NOW, SizeLimits(0, 0))
    return unaudited


def test_the_counts_are_those_of_the_rows_and_add_up(mixed):
    counts = mixed.counts()
    assert counts == Counts(
        captured=80,
        pending=10,
        in_flight=10,
        failed=10,
        sent=20,
        dead=10,
        in_doubt=10,
        evicted=10,
        dropped=7,
        purged=10,
    )
    assert counts.undelivered == 30
    assert audit(mixed) == []


def test_an_empty_database_is_in_order(unaudited):
    assert audit(unaudited) == []
    assert unaudited.counts() == Counts(*[0] * 10)


def test_the_view_and_the_counts_agree(mixed):
    shown = dict(rows(mixed, "SELECT status, count(*) FROM message_status GROUP BY 1"))
    statuses = ("PENDING", "SENDING", "FAILED", "SENT", "DEAD", "IN_DOUBT")
    assert shown == dict.fromkeys(statuses, 10)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM message WHERE id = 15", "batch range 11-20"),
        ("DELETE FROM message WHERE id = 25", "batch range 21-30"),
        ("DELETE FROM message WHERE id = 65", "batch range 61-70"),
        ("DELETE FROM message WHERE id = 75", "ids 71-80"),
        ("DELETE FROM message WHERE id = 80", "ids 71-80"),
        (
            "INSERT INTO message(id, name, value, timestamp_us) VALUES (5, 'x', 1, 1)",
            "batch range 1-10",
        ),
        (
            "INSERT INTO message(id, name, value, timestamp_us) VALUES (55, 'x', 1, 1)",
            "batch range 51-60",
        ),
        ("UPDATE message SET status = 'PENDING' WHERE id = 15", "batch range 11-20"),
        ("UPDATE message SET status = 'SENT' WHERE id = 25", "batch range 21-30"),
        ("UPDATE message SET status = 'SENT' WHERE id = 65", "batch range 61-70"),
        ("UPDATE message SET status = 'SENT' WHERE id = 75", "ids 71-80"),
        ("UPDATE tally SET n = n + 1 WHERE status = 'SENT'", "tally SENT"),
        ("UPDATE tally SET n = n - 1 WHERE status = 'PURGED'", "tally PURGED"),
        ("UPDATE batch SET status = 'DEAD' WHERE first_id = 11", "batch range 11-20"),
        ("DELETE FROM batch WHERE first_id = 31", "batch range 41-50: should begin at 31"),
        (
            "UPDATE batch SET last_id = 29 WHERE first_id = 21",
            "batch range 31-40: should begin at 30",
        ),
        (
            "UPDATE batch SET last_id = 31 WHERE first_id = 21",
            "batch range 31-40: should begin at 32",
        ),
        ("UPDATE batch SET first_id = 2 WHERE first_id = 1", "batch range 2-10: should begin at 1"),
        ("UPDATE sqlite_sequence SET seq = 90 WHERE name = 'message'", "ids 71-90"),
        ("UPDATE sqlite_sequence SET seq = 75 WHERE name = 'message'", "ids 71-75"),
    ],
)
def test_the_audit_names_what_is_wrong(mixed, damage, said):
    execute(mixed, damage)
    assert any(line.startswith(said) for line in audit(mixed))


@pytest.mark.parametrize("trigger", ["batch_inserted", "batch_updated", "batch_deleted"])
def test_without_a_tally_trigger_the_audit_fails(mixed, trigger):
    execute(mixed, f"DROP TRIGGER {trigger}")
    mixed.claim_fresh("sender", POLICY, NOW, 5)
    deliver(mixed, 5)
    for _ in range(2):
        mixed.purge(0, None, NOW)
    assert audit(mixed) != []


def test_a_claim_that_a_power_cut_undid_leaves_the_ledger_in_order(mixed):
    execute(mixed, "DELETE FROM batch WHERE first_id = 61")
    assert audit(mixed) == []
    assert mixed.counts().pending == 20


def test_a_damaged_file_is_reported_by_the_audit(mixed):
    execute(mixed, "CREATE INDEX later ON message(name)")
    execute(mixed, "PRAGMA writable_schema = ON")
    other = "CREATE INDEX later ON message(value)"
    execute(mixed, "UPDATE sqlite_schema SET sql = :other WHERE name = 'later'", other=other)
    assert any(line.startswith("database file: ") for line in audit(mixed))
