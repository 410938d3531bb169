"""Opens a TCP connection within what is left of a request's deadline."""

import socket
from concurrent.futures import Future
from contextlib import closing

from sensor_node.delivery.deadline import DeadlineGuard, start_thread
from sensor_node.delivery.race import HEAD_START_SECONDS, Address, NoAddressAnswers, Race, in_turn


class Dialer:
    """Connects to one host, again and again; `guard` knows how much time is left."""

    def __init__(self, guard: DeadlineGuard) -> None:
        self._guard = guard
        self._lookup: Future[list[Address]] | None = None
        self._dialed: Address | None = None  # the address that answered last
        self._ranks: dict[Address, int] = {}  # the lower, the earlier it is tried

    def judge(self, *, good: bool) -> None:
        """Remember how a request to the address that was dialed last has ended.

        A good address is tried first from now on, any other last.
        """
        if self._dialed is not None:
            last = max(self._ranks.values(), default=0) + 1
            self._ranks = {self._dialed: -1} if good else {**self._ranks, self._dialed: last}

    def dial(self, host: str, port: int) -> socket.socket:
        """A connected socket that the guard watches.

        Raises OSError: NoAddressAnswers, gaierror, or TimeoutError at the deadline.
        """
        self._dialed = None
        # urllib3 may leave the brackets around IPv6, and the escape before its zone.
        addresses = self._resolve(host.strip("[]").replace("%25", "%"), port)
        connected, self._dialed = self._race(in_turn(addresses, self._ranks))
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._guard.watch(connected)
        except OSError:
            connected.close()
            raise
        return connected

    def _race(self, addresses: list[Address]) -> tuple[socket.socket, Address]:
        with closing(Race()) as race:
            try:
                for address in addresses:
                    race.enter(address)
                    if winner := race.wait(min(HEAD_START_SECONDS, self._guard.left())):
                        return winner
                while race.is_on:
                    if winner := race.wait(self._guard.left()):
                        return winner
            except TimeoutError:
                if not any(race.errors.values()):
                    raise
        raise NoAddressAnswers(race.errors)

    def _resolve(self, host: str, port: int) -> list[Address]:
        """getaddrinfo cannot be interrupted, and takes minutes if name servers are silent.

        So a thread waits for it, and is left behind when the time is up. There is never more than
        one such thread: the next request waits for its result too.
        """
        if self._lookup is None or self._lookup.done():
            lookup: Future[list[Address]] = Future()
            start_thread("lookup", _look_up, lookup, host, port)
            self._lookup = lookup
        return self._lookup.result(self._guard.left())


def _look_up(result: Future[list[Address]], host: str, port: int) -> None:
    try:
        result.set_result([*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)])
    except OSError as error:
        result.set_exception(error)
    except UnicodeError:  # a part of the name is empty or too long
        result.set_exception(socket.gaierror(socket.EAI_NONAME, "not a host name"))
    except BaseException as error:  # or the waiting thread would never hear of it
        result.set_exception(error)
