"""The log file, if standard error goes to one; only the supervisor rotates it."""

import contextlib
import os
import shutil
from pathlib import Path

from sensor_node.config.loader import Config
from sensor_node.system.files import open_unlinked

MOST_BYTES = 1024 * 1024
KEPT = 2  # beside the present file


def log_file(config: Config) -> Path:
    return config.state_directory / "sensor-node.log"


def rotate(config: Config) -> None:
    """If our standard error is the log file and it is full, copy it, then truncate it.

    It is not renamed, because all children append to the same open file.
    """
    error = os.fstat(2)
    if error.st_size < MOST_BYTES:
        return
    file = log_file(config)
    with contextlib.suppress(OSError):
        if not os.path.samestat(error, file.stat()):
            return
        copy = _copy(file)
        for number in range(KEPT, 1, -1):
            older = file.with_name(f"{file.name}.{number - 1}")
            if older.exists():
                older.rename(file.with_name(f"{file.name}.{number}"))
        copy.rename(file.with_name(f"{file.name}.1"))
        os.ftruncate(2, 0)


def _copy(file: Path) -> Path:
    """Copy the whole file. Raises OSError and leaves no copy, so that older files are kept."""
    copy = file.with_name(f"{file.name}.new")
    try:
        with file.open("rb") as source, open_unlinked(copy, "wb") as target:
            shutil.copyfileobj(source, target)
    except OSError:
        copy.unlink(missing_ok=True)
        raise
    return copy
