"""A directory that the node cannot write any more is told, whoever asks."""

import os

import pytest

from sensor_node.config.loader import load_config
from sensor_node.control import directories

NODE, GROUP = 990, 991


def directory(mode: int, owner: int, group: int) -> os.stat_result:
    return os.stat_result((0o040000 | mode, 0, 0, 0, owner, group, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "owner", "group", "writable"),
    [
        (0o750, NODE, 0, True),
        (0o550, NODE, 0, False),
        (0o650, NODE, 0, False),  # nobody can search it
        (0o577, NODE, GROUP, False),  # the owner's bits alone count for the owner
        (0o770, 0, GROUP, True),
        (0o757, 0, GROUP, False),
        (0o755, 0, 0, False),
        (0o777, 0, 0, True),
    ],
)
def test_by_the_mode_who_may_write(mode, owner, group, writable) -> None:
    assert directories.may_write(directory(mode, owner, group), NODE, {GROUP, 4}) == writable
    assert directories.may_write(directory(mode, owner, group), 0, {0}), "root may always"


def test_each_directory_is_told_once_with_its_hint(tmp_path, monkeypatch) -> None:
    file = tmp_path / "config.ini"
    file.write_text("[sensor:room]\n[storage]\npath = card/telemetry.db\n")
    config = load_config(file)
    assert directories.complaints(config, os.getpid()) == []
    for made in (config.state_directory, config.storage.path.parent):
        made.mkdir()
    assert directories.complaints(config, os.getpid()) == []
    monkeypatch.setattr(directories, "user_and_groups", lambda pid: (NODE, {GROUP}))
    told = directories.complaints(config, os.getpid())
    assert told == [
        (f"{path}: cannot be written by the node", directories.HINT)
        for path in (config.state_directory, config.storage.path.parent)
    ]


def test_a_directory_with_an_access_list_is_not_judged(tmp_path, monkeypatch) -> None:
    file = tmp_path / "config.ini"
    file.write_text("[sensor:room]\n")
    config = load_config(file)
    config.state_directory.mkdir()
    monkeypatch.setattr(directories, "user_and_groups", lambda pid: (NODE, {GROUP}))
    monkeypatch.setattr(os, "listxattr", lambda path: [directories.ACL])
    assert directories.complaints(config, os.getpid()) == []


def test_a_file_system_without_an_inode_is_told(tmp_path, monkeypatch) -> None:
    file = tmp_path / "config.ini"
    file.write_text("[sensor:room]\n")
    config = load_config(file)
    config.state_directory.mkdir()
    monkeypatch.setattr(directories, "user_and_groups", lambda pid: (0, {0}))
    full = os.statvfs_result((4096, 4096, 9, 9, 9, 100, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    [(what, hint)] = directories.complaints(config, os.getpid())
    assert what.endswith("no file can be made there, no inode is left")
    assert hint == directories.NO_INODES
