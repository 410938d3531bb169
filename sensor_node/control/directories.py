"""What is wrong with a node's directories, seen from outside the node."""

import contextlib
import os
from pathlib import Path

from sensor_node.config.loader import Config
from sensor_node.core.errors import SensorNodeError
from sensor_node.supervision.disk import insist_on_disk
from sensor_node.system.proc import user_and_groups

WRITE_AND_SEARCH = 0o3
ACL = "system.posix_acl_access"
HINT = "give it back to the node's user; see its owner, its mode and the mount options"
NO_INODES = "delete or move files there"


def complaints(config: Config, supervisor: int) -> list[tuple[str, str]]:
    """What is wrong, and its hint, while the node runs with this supervisor.

    A node with open files may go on without its directories, but its next start fails. That the
    database is on a read-only file system is among the database's problems.
    """
    try:
        user = user_and_groups(supervisor)
    except OSError:
        return []  # the supervisor has ended
    problems: list[tuple[str, str]] = []
    database = config.storage.path.parent
    for directory in dict.fromkeys((config.state_directory, config.runtime_directory, database)):
        with contextlib.suppress(OSError):  # this command's user may not look there
            file_system = os.statvfs(directory)
            is_read_only = file_system.f_flag & os.ST_RDONLY and directory != database
            if is_read_only or not _may_write(directory, *user):
                problems.append((f"{directory}: cannot be written by the node", HINT))
            if file_system.f_files and not file_system.f_favail:
                description = f"{directory}: no file can be made there, no inode is left"
                problems.append((description, NO_INODES))
    return problems


def in_the_way(config: Config) -> list[tuple[str, str]]:
    """What hinders a start, and its hint."""
    try:
        insist_on_disk(config)
    except SensorNodeError as error:
        description, _, hint = str(error).partition("; ")
        return [(description, hint)]
    return []


def _may_write(directory: Path, uid: int, gids: set[int]) -> bool:
    with contextlib.suppress(OSError):  # a file system without attributes
        if ACL in os.listxattr(directory):
            return True  # the mode does not say who may
    return may_write(directory.stat(), uid, gids)


def may_write(directory: os.stat_result, uid: int, gids: set[int]) -> bool:
    """Whether the directory's mode lets this user make files in it."""
    shift = 6 if directory.st_uid == uid else 3 if directory.st_gid in gids else 0
    return uid == 0 or (directory.st_mode >> shift) & WRITE_AND_SEARCH == WRITE_AND_SEARCH
