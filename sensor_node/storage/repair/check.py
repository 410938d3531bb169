"""Looks for damage that SQLite itself does not come across, for a bounded time.

If a flipped bit turns a value, a name or a time into another possible one, nobody can tell.
"""

import contextlib
import itertools
import sqlite3
import threading
import time
from collections.abc import Iterator

from sensor_node.core.errors import DatabaseDamaged
from sensor_node.storage.engine.schema import migrate
from sensor_node.storage.queue import ledger

# No check takes longer, however large the database is.
CHECK_SECONDS = 2.0
OBJECTS = "SELECT type, name, sql FROM sqlite_schema"
# By table, whether it has rows that no node wrote so and that a process would stumble over.
STRANGE = {
    "sink": """
        SELECT count(*) <> 1
          OR sum(typeof(epoch) <> 'integer' OR typeof(failures) <> 'integer'
            OR typeof(reason) <> 'text' OR typeof(hint) <> 'text'
            OR typeof(since) <> 'real' OR typeof(next_probe_at) <> 'real'
            OR typeof(next_send_at) <> 'real'
            OR typeof(accepted_at_refusal) NOT IN ('integer','null')
            OR state NOT IN ('UP', 'DOWN'))
        FROM sink
        """,
    "tally": "SELECT count(*) <> 7 OR sum(typeof(n) <> 'integer' OR n < 0) FROM tally",
    "key_value": """
        SELECT coalesce(sum(typeof(value) <> 'text'
            OR name = 'settings' AND NOT json_valid(value)), 0)
        FROM key_value
        """,
    "stream": """
        SELECT coalesce(sum(typeof(node) <> 'text' OR typeof(wire_first) <> 'integer'
            OR first_id < 1 OR wire_first < 1 OR salvaged NOT IN (0, 1)
            OR typeof(last_id) NOT IN ('integer', 'null')
            OR typeof(name) <> 'text' OR length(name) <> 24
            OR name GLOB '*[^0-9a-f]*'), 0)
        FROM stream
        """,
    "dropped": "SELECT coalesce(sum(typeof(n) <> 'integer' OR n < 0), 0) FROM dropped",
    "sample": """
        SELECT coalesce(sum(typeof(captured) <> 'integer' OR typeof(sent) <> 'integer'
            OR typeof(at) <> 'real'), 0)
        FROM sample
        """,
    "event": """
        SELECT coalesce(sum(typeof(at) <> 'real' OR typeof(until) <> 'real'
            OR typeof(kind) <> 'text' OR typeof(detail) <> 'text' OR typeof(n) <> 'integer'
            OR typeof(first) NOT IN ('integer', 'null') OR typeof(last) NOT IN ('integer', 'null')),
            0)
        FROM event
        """,
    "batch": """
        SELECT coalesce(sum(typeof(last_id) <> 'integer'
            OR typeof(attempts) <> 'integer'
              OR attempts NOT BETWEEN 0 AND 4611686018427387904
            OR typeof(requeue_count) <> 'integer'
              OR requeue_count NOT BETWEEN 0 AND 4611686018427387904
            OR typeof(failure_order) <> 'integer'
              OR failure_order NOT BETWEEN 0 AND 4611686018427387904
            OR typeof(failures) <> 'integer' OR failures NOT BETWEEN 0 AND 4611686018427387904
            OR typeof(answers) <> 'integer' OR typeof(fate_unknown) <> 'integer'
            OR typeof(owner) NOT IN ('text', 'null') OR (status = 'SENDING') <> (owner IS NOT NULL)
            OR typeof(claimed_at) NOT IN ('real', 'null')
            OR typeof(settled_at) NOT IN ('real', 'null')
            OR typeof(next_attempt_at) NOT IN ('real', 'null')
            OR typeof(failed_epoch) NOT IN ('integer', 'null')
            OR typeof(accepted_at_failure) NOT IN ('integer', 'null')
            OR typeof(accepted_at_refusal) NOT IN ('integer', 'null')
            OR typeof(last_error) NOT IN ('text', 'null')), 0)
        FROM batch
        """,
    "message": """
        SELECT coalesce(sum(typeof(name) <> 'text' OR typeof(value) <> 'real'
            OR value - value IS NOT 0 OR typeof(timestamp_us) <> 'integer'
            OR typeof(captured_us) NOT IN ('integer', 'null')), 0)
        FROM message
        """,
}
# Fetching these finds text that is not UTF-8.
TEXTS = (
    "SELECT reason, hint FROM sink",
    "SELECT name, value FROM key_value",
    "SELECT node FROM stream",
    "SELECT reason FROM dropped",
    "SELECT DISTINCT kind, detail FROM event",
    "SELECT DISTINCT owner, last_error FROM batch",
    "SELECT DISTINCT name FROM message",
)
UNOWNED = "SELECT 1 FROM message WHERE id < (SELECT coalesce(min(first_id), 9e18) FROM stream)"


def check_for_damage(connection: sqlite3.Connection, seconds: float) -> None:
    """Raises DatabaseDamaged, or SQLite's error, if there is damage; ends after `seconds`.

    A check that runs out of time has found nothing.
    """
    deadline = time.monotonic() + seconds
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        for complaint in itertools.chain(_complaints(connection), ledger.audit(connection)):
            # An integrity check that was interrupted may complain about a sound database.
            if time.monotonic() < deadline:
                raise DatabaseDamaged(complaint)
            return
    except TypeError as error:
        raise DatabaseDamaged(f"ids are no numbers: {error}") from error
    except sqlite3.DatabaseError as error:
        if time.monotonic() >= deadline:
            return
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
            raise DatabaseDamaged(str(error)) from error  # no such column, and the like
        raise
    finally:
        timer.cancel()
        timer.join()


def _complaints(connection: sqlite3.Connection) -> Iterator[str]:
    """What is wrong, small tables first, as the time may run out in the large ones."""
    missing = _objects_of_a_new_file() - _objects(connection)
    if missing:
        yield f"its tables are not as they were made: {sorted(name for _, name, _ in missing)}"
    for table, query in STRANGE.items():
        if connection.execute(query).fetchone() != (0,):
            yield f"table {table} has rows that were never written so"
    for query in TEXTS:
        for _ in connection.execute(query):
            pass
    if connection.execute(UNOWNED).fetchone():
        yield "messages belong to no stream"
    ledger.sound_counts(connection)


def _objects_of_a_new_file() -> set[tuple[str, str, str]]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as new:
        migrate(new)
        return _objects(new)


def _objects(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Type, name and SQL of each object of the schema; line breaks do not count."""
    rows = connection.execute(OBJECTS)
    return {(kind, name, " ".join((sql or "").split())) for kind, name, sql in rows}
