"""Connects to several addresses side by side, as RFC 8305 says; the first that answers wins."""

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
# How long an address has the race to itself: RFC 8305, section 5.
HEAD_START_SECONDS = 0.25


class NoAddressAnswers(OSError):
    """`answers`: address and error of each that was tried, None: it has not answered at all."""

    def __init__(self, answers: dict[str, OSError | None]) -> None:
        super().__init__("no address answers")
        self.answers = answers


class Race:
    """Attempts to connect. Close it: then all but the winner are closed."""

    def __init__(self) -> None:
        self._selector = selectors.PollSelector()
        self.answers: dict[str, OSError | None] = {}

    def enter(self, address: Address) -> None:
        """One more begins."""
        family, kind, protocol, _, name = address
        self.answers[name[0]] = None
        try:
            attempt = socket.socket(family, kind, protocol)
        except OSError as error:
            self.answers[name[0]] = error
            return
        attempt.setblocking(False)
        number = attempt.connect_ex(name)
        if number in (0, errno.EINPROGRESS):
            self._selector.register(attempt, selectors.EVENT_WRITE, address)
        else:
            self._lose(attempt, address, number)

    def wait(self, seconds: float) -> tuple[socket.socket, Address] | None:
        """The winner; None if so long there is none, or nobody is left who might be."""
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
        return bool(self._selector.get_map())

    def close(self) -> None:
        for key in self._selector.get_map().values():
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _lose(self, attempt: socket.socket, address: Address, number: int) -> None:
        attempt.close()
        self.answers[address[4][0]] = OSError(number, os.strerror(number))


def in_turn(addresses: list[Address], ranks: Mapping[Address, int]) -> list[Address]:
    """By rank, 0 if it has none; within one the families by turns, each in the given order."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    mixed = filter(None, chain(*zip_longest(*families.values())))
    return sorted(mixed, key=lambda address: ranks.get(address, 0))
