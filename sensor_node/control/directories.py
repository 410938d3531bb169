"""What is wrong with the directories that a running node writes into, as seen from outside."""

import contextlib
import os
from pathlib import Path

from sensor_node.config.loader import Config
from sensor_node.core.errors import SensorNodeError
from sensor_node.supervision.disk import insist_on_disk
from sensor_node.system.proc import ids

WRITE_AND_SEARCH = 0o3
ACL = "system.posix_acl_access"
HINT = "give it back to the node's user; see its owner, its mode and the mount options"
NO_INODES = "delete or move files there"


def complaints(config: Config, supervisor: int) -> list[tuple[str, str]]:
    """What it is, and the hint: what goes well while files are open ends with the next start.

    That the database is where nobody can write is told elsewhere.
    """
    try:
        user = ids(supervisor)
    except OSError:
        return []  # it has ended
    found: list[tuple[str, str]] = []
    database = config.storage.path.parent
    for directory in dict.fromkeys((config.state_directory, config.runtime_directory, database)):
        with contextlib.suppress(OSError):  # whoever asks may not look there
            files = os.statvfs(directory)
            is_read_only = files.f_flag & os.ST_RDONLY and directory != database
            if is_read_only or not _may_write(directory, *user):
                found.append((f"{directory}: cannot be written by the node", HINT))
            if files.f_files and not files.f_favail:
                what = f"{directory}: no file can be made there, no inode is left"
                found.append((what, NO_INODES))
    return found


def in_the_way(config: Config) -> list[tuple[str, str]]:
    """Of a start."""
    try:
        insist_on_disk(config)
    except SensorNodeError as error:
        what, _, hint = str(error).partition("; ")
        return [(what, hint)]
    return []


def _may_write(directory: Path, uid: int, gids: set[int]) -> bool:
    with contextlib.suppress(OSError):  # a file system without attributes
        if ACL in os.listxattr(directory):
            return True  # the mode does not tell
    return may_write(directory.stat(), uid, gids)


def may_write(directory: os.stat_result, uid: int, gids: set[int]) -> bool:
    """Whether that user may, as far as the mode tells."""
    shift = 6 if directory.st_uid == uid else 3 if directory.st_gid in gids else 0
    return uid == 0 or (directory.st_mode >> shift) & WRITE_AND_SEARCH == WRITE_AND_SEARCH
