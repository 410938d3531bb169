"""What /proc/locks says, as values."""

import fcntl
import os

import pytest

from sensor_node.system import locks
from sensor_node.system.locks import Lock

TEXT = """\
1: FLOCK  ADVISORY  WRITE 812 fe:00:5326655 0 EOF
1: -> FLOCK  ADVISORY  WRITE 813 fe:00:5326655 0 EOF
2: POSIX  ADVISORY  READ 815 fe:0a:77 1073741826 1073742335
2: -> POSIX  ADVISORY  WRITE 816 fe:0a:77 120 120
3: OFDLCK ADVISORY  WRITE -1 00:1f:77 100 100
4: LEASE  ACTIVE    READ 0 103:00:9 0 EOF
5: POSIX  ADVISORY  WRITE 817 <none>:0 0 EOF
6: what nobody has seen yet

"""


def test_each_that_is_held_is_a_value() -> None:
    assert locks.parse(TEXT) == [
        Lock("FLOCK", "WRITE", 812, os.makedev(0xFE, 0), 5326655, 0, None),
        Lock("POSIX", "READ", 815, os.makedev(0xFE, 10), 77, 1073741826, 1073742335),
        Lock("OFDLCK", "WRITE", -1, os.makedev(0, 0x1F), 77, 100, 100),
        Lock("LEASE", "READ", 0, os.makedev(0x103, 0), 9, 0, None),
    ]


def stat_of(device: int, inode: int) -> os.stat_result:
    return os.stat_result((0, inode, device, *range(7)))


@pytest.mark.parametrize(
    ("device", "kinds"),
    [
        (os.makedev(0xFE, 10), ["POSIX"]),
        (os.makedev(0, 0x1F), ["OFDLCK"]),
        (os.makedev(0, 99), ["POSIX", "OFDLCK"]),
    ],
    ids=["one", "the other", "neither: stat() tells of another device than the lock"],
)
def test_those_of_a_file_go_by_its_device_and_inode(device, kinds) -> None:
    found = locks.of_file(stat_of(device, 77), locks.parse(TEXT))
    assert [lock.kind for lock in found] == kinds
    assert locks.of_file(stat_of(device, 78), locks.parse(TEXT)) == []


def test_a_lock_of_this_process_is_found(tmp_path) -> None:
    with (tmp_path / "file").open("w") as file:
        there = os.fstat(file.fileno())
        assert locks.on(there) == []
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX, 2, 120)
        found = [(*lock[:3], lock.start, lock.end) for lock in locks.on(there)]
        me = os.getpid()
        assert sorted(found) == [("FLOCK", "WRITE", me, 0, None), ("POSIX", "WRITE", me, 120, 121)]


def test_without_proc_none_is_seen(tmp_path) -> None:
    assert locks.on(tmp_path.stat(), tmp_path) == []
