"""What a process tries in order to get out; runs inside the box. Prints the error number, or 0.

Each must succeed for the same user outside the unit: it is the unit that the test is about.
"""

import ctypes
import mmap
import os
import socket
import sys

NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000
libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def write(file: str) -> None:
    with open(file, "w"):
        pass


def read(file: str) -> None:
    with open(file) as opened:
        opened.read()


def make_setuid(file: str) -> None:
    write(file)
    try:
        os.chmod(file, 0o4755)
    finally:
        os.unlink(file)


PROBES = {
    "write-etc": lambda: write("/etc/open/probe"),
    "write-usr": lambda: write("/usr/open/probe"),
    "write-var": lambda: write("/var/open/probe"),
    "read-home": lambda: read("/home/ann/letter"),
    "read-root": lambda: read("/root/letter"),
    "see-others": lambda: os.stat("/proc/1/status"),
    "new-user-namespace": lambda: unshare(NEW_USER),
    "new-mount-namespace": lambda: unshare(NEW_USER | NEW_MOUNTS),
    "packet-socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "raw-socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(),
    "netlink-socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "write-and-execute": lambda: mmap.mmap(
        -1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    ).close(),
    "make-setuid": lambda: make_setuid("/var/lib/sensor-node/probe"),
    "own-state": lambda: write("/var/lib/sensor-node/control"),
}


def main() -> None:
    try:
        PROBES[sys.argv[1]]()
        print(0)
    except OSError as error:
        print(error.errno)


if __name__ == "__main__":
    main()
