"""The package, and boxes that have it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import package
import pytest
from box import Box, box

# Asked to end, clear up as after Ctrl-C: containers, mounts, cgroups.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of its own, as another build replaces the original."""
    found = package.current()
    copied = tmp_path_factory.mktemp("deb") / found.name
    copied.write_bytes(found.read_bytes())
    return copied


@pytest.fixture
def installed(deb: Path) -> Iterator[Box]:
    """Freshly installed, never started."""
    with box("installed", deb) as made:
        yield made


@pytest.fixture
def running(installed: Box) -> Box:
    """With a sink, and a node that captures 20 readings a second."""
    installed.start_sink()
    installed.configure("[sensor:temperature]\nrate = 20\n[retry]\nmax_delay = 2s\n")
    installed.ctl("start")
    return installed
