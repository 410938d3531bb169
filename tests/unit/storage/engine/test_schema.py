"""The schema is brought up to date in whole steps, and what is newer is refused."""

import contextlib
import sqlite3

import pytest

from sensor_node.core.errors import DatabaseUnusable
from sensor_node.storage.engine import schema
from sensor_node.storage.engine.schema import (
    APPLICATION_ID,
    FIRST_VERSION,
    STEPS,
    migrate,
    newest_version,
    schema_version,
)

NEXT = ("CREATE TABLE later(x)", "ALTER TABLE sink ADD COLUMN mood TEXT")


@pytest.fixture
def connection():
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        yield connection


def described(connection):
    sql = "SELECT name, sql FROM sqlite_schema ORDER BY name"
    return connection.execute(sql).fetchall(), schema_version(connection)


def test_an_empty_file_gets_the_whole_schema_and_our_mark(connection):
    assert schema_version(connection) == 0
    migrate(connection)
    assert schema_version(connection) == newest_version()
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)


def test_what_is_up_to_date_is_left_alone(connection):
    migrate(connection)
    before = described(connection)
    migrate(connection)
    assert described(connection) == before


def test_an_older_schema_is_brought_up_to_date_with_what_is_in_it(connection, monkeypatch):
    migrate(connection)
    connection.execute("INSERT INTO message(name, value, timestamp_us) VALUES ('a', 1, 1)")
    monkeypatch.setattr(schema, "STEPS", (*STEPS, NEXT))
    migrate(connection)
    assert schema_version(connection) == FIRST_VERSION + len(STEPS)
    assert connection.execute("SELECT mood FROM sink").fetchall() == [(None,)]
    assert connection.execute("SELECT count(*) FROM message").fetchone() == (1,)


def test_a_step_that_fails_half_way_leaves_nothing_behind_and_can_be_repeated(
    connection, monkeypatch
):
    migrate(connection)
    before = described(connection)
    monkeypatch.setattr(schema, "STEPS", (*STEPS, (*NEXT, "CREATE TABLE later(x)")))
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        migrate(connection)
    connection.execute("ROLLBACK")  # as closing the connection does
    assert described(connection) == before
    monkeypatch.setattr(schema, "STEPS", (*STEPS, NEXT))
    migrate(connection)


def test_a_newer_schema_is_refused(connection):
    migrate(connection)
    connection.execute(f"PRAGMA user_version = {newest_version() + 1}")
    before = connection.total_changes
    with pytest.raises(DatabaseUnusable, match="install the newer version"):
        migrate(connection)
    assert connection.total_changes == before


def test_a_schema_from_before_the_first_release_is_refused(connection):
    migrate(connection)
    connection.execute(f"PRAGMA user_version = {FIRST_VERSION - 1}")
    before = connection.total_changes
    with pytest.raises(DatabaseUnusable, match="which no release had; move it away"):
        migrate(connection)
    assert connection.total_changes == before


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE x(y)", "PRAGMA user_version = 1", "CREATE VIEW v AS SELECT 1"]
)
def test_what_is_not_ours_is_refused(connection, statement):
    connection.execute(statement)
    with pytest.raises(DatabaseUnusable, match="another program's database"):
        migrate(connection)


def test_released_steps_are_never_edited():
    """Databases in the field were made by them; a change needs a step of its own."""
    assert len(STEPS) == 1


def test_there_is_a_tally_for_every_status_of_a_batch(connection):
    migrate(connection)
    [(sql,)] = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'batch'").fetchall()
    for (status,) in connection.execute("SELECT status FROM tally"):
        assert f"'{status}'" in sql
    assert connection.execute("SELECT count(*) FROM tally").fetchone() == (7,)
