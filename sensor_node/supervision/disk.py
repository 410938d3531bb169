"""Insists on the disk that the database was on: else a start would make a new database elsewhere.

If the database is outside the state directory, a note in that directory names its mount point. A
mount point is recognized by its device. So a bind mount of the same file system is not seen, and
neither are the mounts of a unit's sandbox, which are no disks.
"""

import contextlib
import os
from pathlib import Path

from sensor_node.config.loader import Config
from sensor_node.core.errors import SensorNodeError
from sensor_node.system.files import open_unlinked, real


def note_file(config: Config) -> Path:
    return config.state_directory / "database.mount"


def insist_on_disk(config: Config) -> None:
    """Call it before the database's directory is made. Raises SensorNodeError without its disk.

    It is not a ConfigError: the disk may be mounted later, so the service manager tries again.
    """
    directory = real(config.storage.path).parent
    if _is_own(config, directory):
        return
    mount = _noted(config, directory)
    if mount and not os.path.ismount(mount):
        raise SensorNodeError(
            f"{mount}: is not mounted, and {config.storage.path} was there; mount it, or, if the "
            f"database is to begin anew where it is told, remove {note_file(config)}"
        )
    if not mount and not directory.is_dir():
        raise SensorNodeError(
            f"{directory}: there is no such directory; mount its disk, or make it, for the node's "
            "user to write in"
        )


def note_disk(config: Config) -> None:
    """Note the mount point that the database is on now."""
    directory = real(config.storage.path).parent
    mount = _mount_point(directory)
    if _is_own(config, directory) or _noted(config, directory) == mount:
        return
    with contextlib.suppress(OSError), open_unlinked(note_file(config), "wb") as opened:
        opened.write(b"%b\0%b" % (os.fsencode(mount), os.fsencode(directory)))


def _is_own(config: Config, directory: Path) -> bool:
    return directory.is_relative_to(real(config.state_directory))


def _noted(config: Config, directory: Path) -> Path | None:
    """The noted mount point; None if there is no note, or one about another directory."""
    try:
        with open_unlinked(note_file(config), "rb") as opened:
            mount, noted = map(os.fsdecode, opened.read().split(b"\0"))
    except (OSError, ValueError):
        return None
    return Path(mount) if mount and noted == str(directory) else None


def _mount_point(directory: Path) -> Path:
    return next(path for path in (directory, *directory.parents) if os.path.ismount(path))
