"""The schema as steps, each one transaction; `user_version` is the number of the last one done.

Columns that end in _us are microseconds since 1970, other times are wall seconds since 1970, unless
a comment says something else. Comments stand outside the SQL: a check compares the SQL of a
database with that of a new one.
"""

import sqlite3

from sensor_node.core.errors import DatabaseDamaged, DatabaseUnusable

# "SnoD", in each of our files and in no other SQLite database.
APPLICATION_ID = 0x536E6F44

FOREIGN = "is another program's database; set another [storage] path"
TOO_NEW = "has schema {}, this program knows {}; install the newer version of sensor-node again"
UNRELEASED = (
    "has schema {}, which no release had; move it away, and bring its readings back with: "
    "sensor-node-ctl salvage FILE"
)
OUR_TABLES = {"message", "batch", "tally"}
# Schema 1 changed several times, before any release.
FIRST_VERSION = 2
# A header with a larger version is damaged.
MOST_VERSION = 999

VERSION_2 = (
    # id: without gaps, in the order of capture, never reused.
    # status: PENDING, SENT, FAILED, DEAD or IN_DOUBT.
    # name: the sensor's. timestamp_us: the reading's own time.
    # captured_us: when this node captured it; NULL if that is timestamp_us.
    """
    CREATE TABLE message(
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      status TEXT NOT NULL DEFAULT 'PENDING',
      name TEXT NOT NULL,
      value REAL NOT NULL,
      timestamp_us INTEGER NOT NULL,
      captured_us INTEGER)
    """,
    # Batch ranges cover the ids from 1 to the highest claimed one, without hole or overlap. The
    # messages above are PENDING. Columns:
    # status: of all its messages. attempts: how often it was claimed.
    # requeue_count: how often a person requeued it.
    # owner: the process that has claimed it, while it is SENDING.
    # claimed_at, settled_at: the last time; a SENDING range with settled_at was claimed before.
    # next_attempt_at: when it is due, if FAILED.
    # failure_order: rises with each failure of any range.
    # failures: how often it has failed for its own sake, in its present size.
    # answers: how many of all its failures a sink that was UP answered.
    # failed_epoch: the sink's epoch at the first failure.
    # accepted_at_failure, accepted_at_refusal: how many messages the sink had accepted at the last
    # failure, and at the first refusal of the lone message.
    # fate_unknown: 1 if the sink may have it. alone: 1 if it has failed as a single message.
    # unsent: 1 if it could not be sent as it was.
    # isolated: the name of its sensor, if that is set apart. last_error: of the last failure.
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
    # Failures are rare, so these indexes cost most messages nothing. None has `fate_unknown = 1` as
    # its condition: SQLite would plan a query with `fate_unknown = :fate` anew for each value.
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
    # n: how many messages are in batch ranges of that status. The triggers keep it.
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
    # One row, whose columns are explained at SinkRecord in core/settlement.py.
    # next_send_at: max_rate allows no batch before.
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
    # Sensors whose readings fail alone. The columns are explained at Suspect in core/isolation.py.
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
    # Runs of ids that share a name on the wire. first_id: where the stream begins.
    # name: 24 hexadecimal digits. wire_first: the number of first_id on the wire; it differs from
    # first_id only if the stream was salvaged. node: whose readings they are.
    # salvaged: 1 if they come from another database. last_id: where the stream ended, NULL for the
    # present one; the next stream does not tell, as its row may be deleted.
    """
    CREATE TABLE stream(
      first_id INTEGER PRIMARY KEY,
      name TEXT NOT NULL,
      wire_first INTEGER NOT NULL,
      node TEXT NOT NULL,
      salvaged INTEGER NOT NULL DEFAULT 0,
      last_id INTEGER)
    """,
    # n: how many readings were not stored, for that reason.
    "CREATE TABLE dropped(reason TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID",
    # The history. at, until: the first and the last time, as one event may go on.
    # n: how often, or how many messages. first, last: their ids; microseconds for dropped readings.
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
    # Counts of this run, for rates. at: CLOCK_BOOTTIME seconds. captured, sent: messages so far.
    "CREATE TABLE sample(at REAL PRIMARY KEY, captured INTEGER NOT NULL, sent INTEGER NOT NULL)",
    # How each configured sensor is; see VitalSigns in core/model.py.
    # readings, failures: in the database's whole life. noted_id: readings counts up to this id.
    # silent_after: seconds. since, heard_at, noted_at: CLOCK_MONOTONIC seconds.
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
    # See journal/key_value.py.
    "CREATE TABLE key_value(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # The status of each message, with SENDING, which the table message has not.
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
    """The version that this program makes, and the highest one that it can read."""
    return FIRST_VERSION + len(STEPS) - 1


def schema_version(connection: sqlite3.Connection) -> int:
    """The version that the file has; 0 for a new file.

    Raises DatabaseUnusable for another program's file and for an unknown version, DatabaseDamaged
    for a file that has our tables under a header that no node wrote.
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
    """Bring the schema up to date. The caller has the write lock."""
    present = schema_version(connection)
    for version, step in enumerate(STEPS, FIRST_VERSION):
        if version <= present:
            continue
        connection.execute("BEGIN IMMEDIATE")
        for statement in step:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
