"""Connects to several addresses side by side, as in RFC 8305; the first that answers wins."""

import errno
import os
import selectors
import socket
import time
from collections.abc import Mapping
from itertools import chain, zip_longest
from typing import Any

# What getaddrinfo gives: family, type, protocol, canonical name, address.
Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
# An address has so much time before the next one is tried beside it: RFC 8305, section 5.
HEAD_START_SECONDS = 0.25


class NoAddressAnswers(OSError):
    """`errors`: of each address that was tried its error; None if it has not answered at all."""

    def __init__(self, errors: dict[str, OSError | None]) -> None:
        super().__init__("no address answers")
        self.errors = errors


class Race:
    """Attempts to connect, side by side. close() ends all but the winner."""

    def __init__(self) -> None:
        self._selector = selectors.PollSelector()
        self.errors: dict[str, OSError | None] = {}  # as in NoAddressAnswers

    def enter(self, address: Address) -> None:
        """Begin an attempt to connect to this address."""
        family, kind, protocol, _, sockaddr = address
        self.errors[sockaddr[0]] = None
        try:
            attempt = socket.socket(family, kind, protocol)
        except OSError as error:
            self.errors[sockaddr[0]] = error
            return
        attempt.setblocking(False)
        number = attempt.connect_ex(sockaddr)
        if number in (0, errno.EINPROGRESS):
            self._selector.register(attempt, selectors.EVENT_WRITE, address)
        else:
            self._lose(attempt, address, number)

    def wait(self, seconds: float) -> tuple[socket.socket, Address] | None:
        """The winner; None if there is none in that time, or if all attempts have failed."""
        end = time.monotonic() + seconds
        while self.is_on and (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                attempt: Any = key.fileobj
                self._selector.unregister(attempt)
                number = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not number:
                    return attempt, key.data
                self._lose(attempt, key.data, number)
        return None

    @property
    def is_on(self) -> bool:
        """Whether any attempt may still succeed."""
        return bool(self._selector.get_map())

    def close(self) -> None:
        for key in self._selector.get_map().values():
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _lose(self, attempt: socket.socket, address: Address, number: int) -> None:
        attempt.close()
        self.errors[address[4][0]] = OSError(number, os.strerror(number))


def in_turn(addresses: list[Address], ranks: Mapping[Address, int]) -> list[Address]:
    """Sorted by rank (0 if it has none); with equal rank the families take turns.

    Within a family the addresses keep their order.
    """
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    mixed = filter(None, chain(*zip_longest(*families.values())))
    return sorted(mixed, key=lambda address: ranks.get(address, 0))
