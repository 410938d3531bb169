"""Opens a TCP connection within what is left of a request's deadline."""

import socket
from concurrent.futures import Future
from typing import Any

from sensor_node.delivery.deadline import DeadlineGuard, start_thread

# What getaddrinfo gives: family, type, protocol, canonical name, address.
Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


class Dialer:
    """Connects to one host again and again; `guard` knows how much time there is."""

    def __init__(self, guard: DeadlineGuard) -> None:
        self._guard = guard
        self._lookup: Future[list[Address]] | None = None

    def dial(self, host: str, port: int) -> socket.socket:
        """A connected socket that the guard watches. Raises OSError, that is also gaierror.

        The time is shared fairly among the addresses, so that a network which swallows IPv6
        packets cannot use up what IPv4 needs.
        """
        addresses = self._resolve(host.strip("[]"), port)  # urllib3 may leave them on IPv6
        failure: OSError | None = None
        for position, address in enumerate(addresses):
            share = self._guard.left() / (len(addresses) - position)
            try:
                return self._connect(address, share)
            except OSError as error:
                failure = failure or error  # the first address is the preferred one
        raise failure or socket.gaierror(socket.EAI_NONAME, "no address")

    def _connect(self, address: Address, seconds: float) -> socket.socket:
        family, kind, protocol, _, name = address
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(seconds)
            connection.connect(name)
            self._guard.watch(connection)
        except OSError:
            connection.close()
            raise
        return connection

    def _resolve(self, host: str, port: int) -> list[Address]:
        """getaddrinfo cannot be interrupted and may take minutes when name servers are silent.

        So a thread waits for it, and is left behind when the time is up; never more than one.
        """
        if self._lookup is None or self._lookup.done():
            lookup: Future[list[Address]] = Future()
            start_thread("lookup", _look_up, lookup, host, port)
            self._lookup = lookup
        return self._lookup.result(self._guard.left())


def _look_up(answer: Future[list[Address]], host: str, port: int) -> None:
    try:
        answer.set_result([*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)])
    except OSError as error:
        answer.set_exception(error)
    except UnicodeError:  # no name may have an empty or an overlong part
        answer.set_exception(socket.gaierror(socket.EAI_NONAME, "not a host name"))
