"""Opens a TCP connection within what is left of a request's deadline."""

import socket
from concurrent.futures import Future
from contextlib import closing

from sensor_node.delivery.deadline import DeadlineGuard, start_thread
from sensor_node.delivery.race import HEAD_START_SECONDS, Address, NoAddressAnswers, Race, in_turn


class Dialer:
    """Connects to one host again and again; `guard` knows how much time there is."""

    def __init__(self, guard: DeadlineGuard) -> None:
        self._guard = guard
        self._lookup: Future[list[Address]] | None = None
        self._dialed: Address | None = None
        self._ranks: dict[Address, int] = {}

    def judge(self, *, good: bool) -> None:
        """How the address has fared that was dialed last, if that answered.

        A good one comes first from now on. One that is not comes last: another may be.
        """
        if self._dialed is not None:
            last = max(self._ranks.values(), default=0) + 1
            self._ranks = {self._dialed: -1} if good else {**self._ranks, self._dialed: last}

    def dial(self, host: str, port: int) -> socket.socket:
        """A connected socket that the guard watches.

        Raises OSError, that is also gaierror, and NoAddressAnswers if there are several.
        """
        # urllib3 may leave the brackets on IPv6, and the escape before its zone.
        self._dialed = None
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
                    if won := race.wait(min(HEAD_START_SECONDS, self._guard.left())):
                        return won
                while race.is_on:
                    if won := race.wait(self._guard.left()):
                        return won
            except TimeoutError:
                if not any(race.answers.values()):
                    raise
        raise NoAddressAnswers(race.answers)

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
    except BaseException as error:  # whoever waits must hear of anything
        answer.set_exception(error)
