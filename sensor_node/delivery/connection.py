"""urllib3 connections that tell how far a request got, and obey its deadline."""

import http.client
import io
import socket
from dataclasses import dataclass
from functools import partial
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ProtocolError

from sensor_node.delivery.deadline import DeadlineGuard
from sensor_node.delivery.dialing import Dialer


@dataclass(slots=True)
class Progress:
    """How far one request got. What goes to a proxy, or makes TLS, is not the request."""

    dialed: bool = False  # a new connection was begun for it
    written: bool = False  # its first byte may have left
    answered: bool = False  # the first byte of an answer came
    connect_status: int | None = None  # what the proxy answered to CONNECT


class Line:
    """The one connection of a client, and the progress of the request in hand."""

    def __init__(self, guard: DeadlineGuard) -> None:
        self.guard = guard
        self.dialer = Dialer(guard)
        self.progress = Progress()
        self.connection: HTTPConnection | None = None
        self.answer: http.client.HTTPResponse | None = None

    def hang_up(self) -> None:
        """Close the connection; the next request opens another and finds nothing stray in it."""
        if self.answer is not None:
            # It shares the socket; Python 3.11 leaves a proxy's refusal of CONNECT open.
            self.answer.close()
            self.answer = None
        if self.connection is not None:
            self.connection.close()


class WholeLines(io.BufferedReader):
    """http.client takes a closed connection for the end of the headers; here it is an error."""

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and len(line) != size:
            raise http.client.RemoteDisconnected("in the middle of a line")
        return line


class Answer(http.client.HTTPResponse):
    """Notices the first byte of an answer, and what a proxy answers to CONNECT."""

    def __init__(self, line: Line, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp = WholeLines(self.fp.detach())
        self._line = line
        line.answer = self

    def _read_status(self) -> tuple[str, int, str]:
        # Private, but the only step that answers to requests and to CONNECT have in common.
        progress = self._line.progress
        progress.answered = bool(self.fp.peek(1))
        version, status, reason = super()._read_status()  # type: ignore[misc]
        if not progress.written:
            progress.connect_status = status
        return version, status, reason


class PlainConnection(HTTPConnection):
    """Tells its line what becomes of the request."""

    def __init__(self, line: Line, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = line
        self._connecting = False
        self.response_class = partial(Answer, line)  # type: ignore[assignment]

    def _new_conn(self) -> socket.socket:
        try:
            connected = self._line.dialer.dial(self._dns_host, self.port)
        except (ConnectionResetError, BrokenPipeError) as error:
            # urllib3 passes over these, as errors of a request whose answer may have come already.
            raise ProtocolError("while connecting", error) from error
        connected.settimeout(self.timeout)
        return connected

    def connect(self) -> None:
        self._line.connection = self
        self._line.progress.dialed = True
        self._connecting = True
        try:
            super().connect()
        finally:
            self._connecting = False

    def send(self, data: Any) -> None:
        if self.sock is None and self.auto_open:
            self.connect()  # http.client would, but after the request had counted as written
        progress = self._line.progress
        if not self._connecting and not progress.written:
            if not progress.dialed:
                self._line.guard.watch(self.sock)
            progress.written = True
        super().send(data)


class SecureConnection(PlainConnection, HTTPSConnection):
    """The same over TLS: PlainConnection's methods come before HTTPSConnection's."""
