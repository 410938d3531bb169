"""A queue to test: a new database, in memory where there is such a place."""

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from storage_fixtures import WHO, audit

from sensor_node.config.loader import load_config
from sensor_node.storage.repository import SensorDataSQLRepository

MEMORY = Path("/dev/shm")
# No example fails for being slow on a busy machine.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture
def place():
    """A directory for a database: nothing here tests the disk."""
    directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def unaudited(place):
    """An open repository whose run has begun."""
    repository = SensorDataSQLRepository(place / "telemetry.db")
    repository.begin_run(WHO, 0.0, "a run")
    yield repository
    repository.close()


@pytest.fixture
def repository(unaudited):
    """The same, and P3 holds when the test is over."""
    yield unaudited
    assert audit(unaudited) == []


@pytest.fixture
def second(unaudited):
    """Another process's connection to the same database."""
    with contextlib.closing(SensorDataSQLRepository(unaudited.path)) as another:
        yield another


@pytest.fixture
def config(tmp_path):
    """A node's that has nothing but a sensor; its state directory is made."""
    (tmp_path / "config.ini").write_text("[sensor:room]\n")
    config = load_config(tmp_path / "config.ini")
    config.state_directory.mkdir()
    return config
