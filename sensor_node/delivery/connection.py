"""urllib3 connections that record how far a request got, and obey its deadline."""

import http.client
import io
import select
import socket
import ssl
from dataclasses import dataclass
from functools import partial
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

from sensor_node.delivery.deadline import DeadlineGuard
from sensor_node.delivery.dialing import Dialer
from sensor_node.system.log import LOGGER

# Interim answers (1xx) may come before the final one. More of them, or more bytes, are an error.
MAX_INTERIM_ANSWERS = 100
MAX_INTERIM_BYTES = 65_536
# What some proxies say as they close a connection that was not used for a while.
IDLE = (b"HTTP/1.1 408", b"HTTP/1.0 408")


@dataclass(slots=True)
class Progress:
    """How far one request got. CONNECT to a proxy and the TLS handshake are not the request."""

    dialed: bool = False  # a new connection was begun for it
    written: bool = False  # its first byte may have left
    answered: bool = False  # the first byte of an answer came
    connect_status: int | None = None  # the status that the proxy gave to CONNECT; None: none came


class SinkConnection:
    """The one connection of a client, and the progress of its present request."""

    def __init__(self, guard: DeadlineGuard) -> None:
        self.guard = guard
        self.dialer = Dialer(guard)
        self.progress = Progress()
        self.connection: HTTPConnection | None = None
        self.response: TrackedResponse | None = None
        # The sink has never sent more than it was asked for. If a surplus answer arrives while a
        # request is on its way, it is taken for the answer to that request. So after the first one,
        # each request has its own connection.
        self.trusted = True

    def is_spoilt(self) -> bool:
        """Whether, since the last answer, the kept connection has ended or anything came on it."""
        sock = self.connection.sock if self.connection else None
        if sock is None or not _is_readable(sock):
            return False
        timeout = sock.gettimeout()
        sock.settimeout(0)
        try:
            # TLS has messages of its own, which make a socket readable and are no surplus.
            self._note_surplus(sock.recv(len(IDLE[0])))
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            pass
        finally:
            sock.settimeout(timeout)
        return True

    def end_response(self) -> None:
        """Call it when the answer was read to its end: what came after that is a surplus."""
        if self.response is not None:
            self._note_surplus(self.response.reader.unread)

    def _note_surplus(self, received: bytes) -> None:
        """Judge what came after an answer; it is empty if the other side closed the connection."""
        if received and self.trusted and not received.startswith(IDLE):
            self.trusted = False
            LOGGER.warning("sink_surplus the sink sends more than one answer to a request")

    def close(self) -> None:
        """Close the connection; the next request opens another and finds nothing stray in it."""
        if self.response is not None:
            # The response shares the socket; Python 3.11 leaves a proxy's refusal of CONNECT open.
            self.response.close()
            self.response = None
        if self.connection is not None:
            self.connection.close()


def _is_readable(sock: Any) -> bool:
    """Whether a read would not wait; TLS may have decrypted bytes that nobody has read yet."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    pending = getattr(sock, "pending", None)
    return bool(poll.poll(0)) or bool(pending and pending())


class StoppableStream(io.RawIOBase):
    """A socket's bytes; once `stopped` is set there are no more, and no read waits."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.stopped = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return None if self.stopped else self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class AnswerReader(io.BufferedReader):
    """Reads an answer. A connection that is closed in the middle of a line is an error.

    http.client would take that for the end of the headers.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._stream = StoppableStream(raw)
        super().__init__(self._stream)
        self.unread = b""  # what was still in the buffer as this was closed
        self.line_bytes = 0  # read by readline() so far

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and len(line) != size:
            raise http.client.RemoteDisconnected("in the middle of a line")
        self.line_bytes += len(line)
        return line

    def close(self) -> None:
        if not self.closed:
            self._stream.stopped = True
            self.unread = self.peek()
        super().close()


class TrackedResponse(http.client.HTTPResponse):
    """Records the first byte of an answer, and what a proxy answers to CONNECT."""

    def __init__(self, sink_connection: SinkConnection, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp = self.reader = AnswerReader(self.fp.detach())
        self._sink_connection = sink_connection
        sink_connection.response = self

    def _read_status(self) -> tuple[str, int, str]:
        # A private method, but the only step that both kinds of answers take: to requests and to
        # CONNECT.
        progress = self._sink_connection.progress
        progress.answered = bool(self.fp.peek(1))
        for _ in range(MAX_INTERIM_ANSWERS + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status <= 199:
                break
            while self.reader.readline(MAX_INTERIM_BYTES).strip():
                if self.reader.line_bytes > MAX_INTERIM_BYTES:
                    raise http.client.HTTPException("endless interim answer")
        else:
            raise http.client.HTTPException("no end of interim answers")
        if not progress.written:
            progress.connect_status = status
        return version, status, reason


class PlainConnection(HTTPConnection):
    """Records in its SinkConnection how far the request got."""

    def __init__(self, sink_connection: SinkConnection, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sink_connection = sink_connection
        self._connecting = False
        self.response_class = partial(TrackedResponse, sink_connection)  # type: ignore[assignment]

    def _new_conn(self) -> socket.socket:
        connected = self._sink_connection.dialer.dial(self._dns_host, self.port)
        connected.settimeout(self.timeout)
        return connected

    def connect(self) -> None:
        self._sink_connection.connection = self
        self._sink_connection.progress.dialed = True
        self._connecting = True
        try:
            super().connect()
        finally:
            self._connecting = False

    def send(self, data: Any) -> None:
        progress = self._sink_connection.progress
        is_kept = not self._connecting and not progress.dialed
        if is_kept and self._sink_connection.is_spoilt():
            if progress.written:
                # This cannot be the answer: the request is not out yet.
                raise ConnectionResetError("the sink sent something before the whole request")
            self.sock.close()
            self.sock = None
        if self.sock is None and self.auto_open:
            self.connect()  # http.client would, but after the request had counted as written
        if not self._connecting and not progress.written:
            if not progress.dialed:
                self._sink_connection.guard.watch(self.sock)
            progress.written = True
        super().send(data)


class SecureConnection(PlainConnection, HTTPSConnection):
    """The same over TLS: PlainConnection's methods come before HTTPSConnection's."""
