"""`check` opens what the service must open, and says what mends it where it cannot."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sensor_node.config.loader import load_config
from sensor_node.control import access
from sensor_node.core.errors import DatabaseUnusable
from sensor_node.storage.engine.schema import APPLICATION_ID


@pytest.fixture
def config(tmp_path):
    file, drop_in = tmp_path / "config.ini", tmp_path / "config.d" / "sink.ini"
    drop_in.parent.mkdir()
    drop_in.write_text("[sink]\ntoken_file = token\n")
    (tmp_path / "token").write_text("s3cret\n")
    file.write_text("[sensor:room]\n")
    return load_config(file)


@pytest.fixture
def closed(monkeypatch):
    """Names to which the user has no access."""
    names: set[str] = set()
    monkeypatch.setattr(os, "access", lambda name, mode: str(name) not in names)
    return names


def test_all_well_is_no_fault(config) -> None:
    assert access.faults(config) == []


@pytest.mark.parametrize("name", ["config.ini", "config.d/sink.ini", "token"])
def test_a_file_that_cannot_be_read_comes_with_its_command(config, closed, name) -> None:
    file = config.file.parent / name
    closed.add(str(file))
    [fault] = access.faults(config)
    assert fault.startswith(f"{file}: ")
    assert " cannot read it: chgrp " in fault
    assert fault.endswith(f" && chmod g+r {file}")


def test_a_directory_on_the_way_is_named(config, closed) -> None:
    closed.add(str(config.file.parent / "config.d"))
    [fault] = access.faults(config)
    assert f"cannot enter {config.file.parent / 'config.d'}: install -g " in fault


@pytest.mark.parametrize("text", ["two\nlines\n", "", "naïve"])
def test_a_secret_that_is_none_is_told(config, text) -> None:
    token = config.file.parent / "token"
    token.write_text(text)
    [fault] = access.faults(config)
    assert fault == f"[sink] token_file {token}: want one line of printable ASCII"


def test_a_file_that_is_missing_is_a_note_and_no_fault(config) -> None:
    (config.file.parent / "token").unlink()
    assert access.faults(config) == []


def test_a_database_that_cannot_be_written_is_told(config, closed) -> None:
    config.state_directory.mkdir()
    closed.add(str(config.state_directory))
    [fault] = access.faults(config)
    assert "cannot write it: chown " in fault
    assert fault.endswith(f" {config.state_directory}")


def test_a_database_of_a_newer_version_is_refused_without_a_connection(config) -> None:
    config.state_directory.mkdir()
    with closing(sqlite3.connect(config.storage.path)) as database:
        database.executescript(
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 99"
        )
    with pytest.raises(DatabaseUnusable, match="has schema 99"):
        access.faults(config)
    assert [file.name for file in Path(config.state_directory).iterdir()] == ["telemetry.db"]
