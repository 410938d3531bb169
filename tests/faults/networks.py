"""Two network namespaces with a cable between them: the edge, where a node is, and the far side."""

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

EDGE, FAR, FAR_TOO = "10.99.0.1", "10.99.0.2", "10.99.0.3"
EDGE_6, FAR_6 = "fd00:99::1", "fd00:99::2"
NOBODY = "02:00:00:00:00:99"
NUMBERS = itertools.count()

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nsenter") is None,
    reason="network namespaces need root, ip (iproute2) and nsenter (util-linux)",
)


class Network:
    """`edge` and `far` are prefixes for command lines that are to run there."""

    def __init__(self, name: str) -> None:
        self.names = (f"{name}-edge", f"{name}-far")
        self.edge, self.far = (("ip", "netns", "exec", one) for one in self.names)

    def ip(self, side: int, *arguments: str) -> str:
        command = ["ip", "-n", self.names[side], *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def tc(self, *arguments: str) -> None:
        """Of the edge's end of the cable."""
        subprocess.run([*self.edge, "tc", "qdisc", *arguments], check=True, capture_output=True)

    def lay(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        cable = ("link", "add", "cable", "type", "veth", "peer", "name", "cable")
        self.ip(0, *cable, "netns", self.names[1])
        for side, addresses in enumerate(((EDGE, EDGE_6), (FAR, FAR_6, FAR_TOO))):
            self.ip(side, "link", "set", "lo", "up")
            self.ip(side, "link", "set", "cable", "up")
            for address in addresses:
                length, more = ("/64", ("nodad",)) if ":" in address else ("/24", ())
                self.ip(side, "address", "add", address + length, "dev", "cable", *more)

    def clear(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def swallow(self, address: str) -> None:
        """From now on every packet to the address is dropped without a word."""
        self.ip(0, "neighbour", "replace", address, "lladdr", NOBODY, "dev", "cable")

    def deliver(self, address: str) -> None:
        """The end of that."""
        self.ip(0, "neighbour", "delete", address, "dev", "cable")

    def slow_down(self, kilobits: int) -> None:
        """So many kilobits a second from the edge to the far side, and a long queue before them."""
        limits = ("rate", f"{kilobits}kbit", "burst", "1600", "limit", "1000000")
        self.tc("replace", "dev", "cable", "root", "tbf", *limits)

    def resolving(self, resolv_conf: Path) -> tuple[str, ...]:
        """A prefix for command lines that run at the edge, and with this resolv.conf."""
        mount = f'mount --bind "{resolv_conf}" /etc/resolv.conf && exec "$0" "$@"'
        enter = ("nsenter", f"--net=/run/netns/{self.names[0]}")
        return (*enter, "unshare", "--mount", "sh", "-c", mount)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network of the test's own, gone with it."""
    made = Network(f"sn{os.getpid()}-{next(NUMBERS)}")
    try:
        made.lay()
        yield made
    finally:
        made.clear()
