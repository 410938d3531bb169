"""The schema, step by step: each step is one transaction, and `user_version` is the last one."""

import sqlite3

from sensor_node.core.errors import DatabaseDamaged, DatabaseUnusable

# "SnoD": tells our files from other SQLite databases.
APPLICATION_ID = 0x536E6F44

FOREIGN = "is another program's database; set another [storage] path"
TOO_NEW = "has schema {}, this program knows {}; install the newer version of sensor-node again"
UNRELEASED = (
    "has schema {}, which no release had; move it away, and bring its readings back with: "
    "sensor-node-ctl salvage FILE"
)
OUR_TABLES = {"message", "batch", "tally"}
# Schema 1 was changed again and again before there was a release.
FIRST_VERSION = 2
# A larger number was never a version of the schema.
MOST_VERSION = 999

VERSION_2 = (
    # id: never reused, gap-free in capture order. status: PENDING SENT FAILED DEAD IN_DOUBT.
    # captured_us: when this node captured it, where timestamp_us, the reading's own, says another.
    """
    CREATE TABLE message(
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      status TEXT NOT NULL DEFAULT 'PENDING',
      name TEXT NOT NULL,
      value REAL NOT NULL,
      timestamp_us INTEGER NOT NULL,
      captured_us INTEGER)
    """,
    # The ranges cover the ids from 1 to the highest claimed one, without hole or overlap. What lies
    # above is PENDING. failure_order: rises with each failure of any range. failures: for the
    # batch's own sake, as large as it is now. failed_epoch: the sink's epoch at the first failure.
    # alone: has failed as a single message. unsent: could not be sent as it was. isolated: the
    # name of the sensor that is set apart. accepted_at_failure, accepted_at_refusal: how many
    # messages the sink had accepted at the last failure, and at the first refusal of the lone
    # message. answers: failures that a sink that was UP answered.
    """
    CREATE TABLE batch(
      first_id INTEGER PRIMARY KEY,
      last_id INTEGER NOT NULL CHECK(last_id >= first_id),
      status TEXT NOT NULL CHECK(status IN
        ('SENDING','FAILED','SENT','DEAD','IN_DOUBT','PURGED','EVICTED')),
      attempts INTEGER NOT NULL DEFAULT 0,
      requeue_count INTEGER NOT NULL DEFAULT 0,
      owner TEXT,
      claimed_at REAL,
      settled_at REAL,
      next_attempt_at REAL,
      failure_order INTEGER NOT NULL DEFAULT 0,
      failures INTEGER NOT NULL DEFAULT 0,
      answers INTEGER NOT NULL DEFAULT 0,
      failed_epoch INTEGER,
      accepted_at_failure INTEGER,
      accepted_at_refusal INTEGER,
      fate_unknown INTEGER NOT NULL DEFAULT 0,
      alone INTEGER NOT NULL DEFAULT 0,
      unsent INTEGER NOT NULL DEFAULT 0,
      isolated TEXT,
      last_error TEXT)
    """,
    # Failures are rare, so these cost nothing on the way that most messages go. settled_at: a claim
    # has one if its messages were claimed before. Not `fate_unknown = 1`: a query with
    # `fate_unknown = :fate` would be planned anew each time, as the value might be that.
    """
    CREATE INDEX batch_due ON batch(fate_unknown, next_attempt_at)
    WHERE status = 'FAILED' AND isolated IS NULL
    """,
    """
    CREATE INDEX batch_left_over ON batch(fate_unknown, next_attempt_at)
    WHERE status = 'FAILED' AND isolated IS NULL AND failures = 0
    """,
    """
    CREATE INDEX batch_failure_order ON batch(fate_unknown, failure_order)
    WHERE status = 'FAILED' AND isolated IS NULL
    """,
    """
    CREATE INDEX batch_isolated ON batch(isolated, fate_unknown, failure_order)
    WHERE status = 'FAILED' AND isolated IS NOT NULL
    """,
    """
    CREATE INDEX batch_doubtful ON batch(fate_unknown)
    WHERE status = 'FAILED' AND fate_unknown > 0
    """,
    "CREATE INDEX batch_failed ON batch(first_id) WHERE status = 'FAILED'",
    "CREATE INDEX batch_parked ON batch(first_id) WHERE status IN ('DEAD', 'IN_DOUBT')",
    """
    CREATE INDEX batch_sending_again ON batch(first_id)
    WHERE status = 'SENDING' AND settled_at IS NOT NULL
    """,
    "CREATE TABLE tally(status TEXT PRIMARY KEY, n INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID",
    """
    INSERT INTO tally(status) VALUES
      ('SENDING'),('FAILED'),('SENT'),('DEAD'),('IN_DOUBT'),('PURGED'),('EVICTED')
    """,
    """
    CREATE TRIGGER batch_inserted AFTER INSERT ON batch BEGIN
      UPDATE tally SET n = n + NEW.last_id - NEW.first_id + 1 WHERE status = NEW.status;
    END
    """,
    """
    CREATE TRIGGER batch_deleted AFTER DELETE ON batch BEGIN
      UPDATE tally SET n = n - (OLD.last_id - OLD.first_id + 1) WHERE status = OLD.status;
    END
    """,
    """
    CREATE TRIGGER batch_updated AFTER UPDATE OF status, first_id, last_id ON batch BEGIN
      UPDATE tally SET n = n - (OLD.last_id - OLD.first_id + 1) WHERE status = OLD.status;
      UPDATE tally SET n = n + NEW.last_id - NEW.first_id + 1 WHERE status = NEW.status;
    END
    """,
    """
    CREATE TABLE sink(
      id INTEGER PRIMARY KEY CHECK(id = 1),
      state TEXT NOT NULL CHECK(state IN ('UP','DOWN')),
      epoch INTEGER NOT NULL,
      since REAL NOT NULL,
      reason TEXT NOT NULL DEFAULT '',
      hint TEXT NOT NULL DEFAULT '',
      next_probe_at REAL NOT NULL DEFAULT 0,
      failures INTEGER NOT NULL DEFAULT 0,
      accepted_at_refusal INTEGER,
      accepted_at_up INTEGER NOT NULL DEFAULT -1,
      taken_after REAL NOT NULL DEFAULT 0,
      futile INTEGER NOT NULL DEFAULT 0,
      faults INTEGER NOT NULL DEFAULT 0,
      accepted_at_fault INTEGER NOT NULL DEFAULT 0,
      throttled INTEGER NOT NULL DEFAULT 0,
      next_send_at REAL NOT NULL DEFAULT 0)
    """,
    "INSERT INTO sink(id, state, epoch, since) VALUES (1, 'UP', 1, 0)",
    # Sensors whose readings fail alone. accepted_at_failure: how many messages the sink had
    # accepted at the last of these failures.
    """
    CREATE TABLE suspect(
      name TEXT PRIMARY KEY,
      failures INTEGER NOT NULL,
      accepted_at_failure INTEGER NOT NULL,
      isolated INTEGER NOT NULL,
      since REAL NOT NULL,
      reason TEXT NOT NULL,
      next_probe_at REAL NOT NULL,
      taken INTEGER NOT NULL DEFAULT 0,
      times INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID
    """,
    # wire_first: the number on the wire of the message first_id; another only if salvaged. last_id:
    # where it ended, as the streams above may be forgotten; none of the present one.
    """
    CREATE TABLE stream(
      first_id INTEGER PRIMARY KEY,
      name TEXT NOT NULL,
      wire_first INTEGER NOT NULL,
      node TEXT NOT NULL,
      salvaged INTEGER NOT NULL DEFAULT 0,
      last_id INTEGER)
    """,
    "CREATE TABLE dropped(reason TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID",
    # first, last: message ids, or microseconds for dropped readings.
    """
    CREATE TABLE event(
      id INTEGER PRIMARY KEY,
      at REAL NOT NULL,
      until REAL NOT NULL,
      kind TEXT NOT NULL,
      detail TEXT NOT NULL,
      n INTEGER NOT NULL,
      first INTEGER,
      last INTEGER)
    """,
    "CREATE INDEX event_kind ON event(kind)",
    # What was captured and sent at moments of this run, for rates. at: CLOCK_BOOTTIME.
    "CREATE TABLE sample(at REAL PRIMARY KEY, captured INTEGER NOT NULL, sent INTEGER NOT NULL)",
    # How each configured sensor is. silent_after: seconds. since, heard_at, noted_at:
    # CLOCK_MONOTONIC. noted_id: readings holds what was stored up to this id.
    """
    CREATE TABLE sensor(
      name TEXT PRIMARY KEY,
      since REAL NOT NULL,
      silent_after REAL NOT NULL,
      noted_at REAL NOT NULL,
      noted_id INTEGER NOT NULL,
      readings INTEGER NOT NULL DEFAULT 0,
      failures INTEGER NOT NULL DEFAULT 0,
      last_us INTEGER,
      last_value REAL,
      heard_at REAL,
      error TEXT NOT NULL DEFAULT '',
      error_us INTEGER,
      failing INTEGER NOT NULL DEFAULT 0,
      silent INTEGER NOT NULL DEFAULT 0,
      unaccounted INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID
    """,
    "CREATE TABLE key_value(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """
    CREATE VIEW message_status AS
      SELECT message.id,
             CASE batch.status WHEN 'SENDING' THEN 'SENDING' ELSE message.status END AS status,
             message.name, message.value, message.timestamp_us,
             coalesce(batch.attempts, 0) AS attempts, batch.next_attempt_at, batch.last_error,
             coalesce(message.captured_us, message.timestamp_us) AS captured_us
      FROM message LEFT JOIN batch
        ON batch.first_id = (SELECT max(first_id) FROM batch WHERE first_id <= message.id)
       AND batch.last_id >= message.id
    """,
    f"PRAGMA application_id = {APPLICATION_ID}",
)

STEPS = (VERSION_2,)


def newest_version() -> int:
    """The version that this program makes, and the last one that it can read."""
    return FIRST_VERSION + len(STEPS) - 1


def schema_version(connection: sqlite3.Connection) -> int:
    """0 for a new file.

    Raises DatabaseUnusable for what this program must not touch, DatabaseDamaged for a file that
    has our tables under a header that we never wrote.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    is_ours = application == APPLICATION_ID
    if is_ours != bool(version) or (tables and not version) or not 0 <= version <= MOST_VERSION:
        if is_ours or tables >= OUR_TABLES:
            raise DatabaseDamaged("its header is not as it was written")
        if version or tables:
            raise DatabaseUnusable(FOREIGN)
    if 0 < version < FIRST_VERSION:
        raise DatabaseUnusable(UNRELEASED.format(version))
    if version > newest_version():
        raise DatabaseUnusable(TOO_NEW.format(version, newest_version()))
    return int(version)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date, under the write lock."""
    present = schema_version(connection)
    for version, step in enumerate(STEPS, FIRST_VERSION):
        if version <= present:
            continue
        connection.execute("BEGIN IMMEDIATE")
        for statement in step:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
