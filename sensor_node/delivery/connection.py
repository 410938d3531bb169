"""urllib3 connections that tell how far a request got, and obey its deadline."""

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

# Interim answers may come before the final one; more of them, or of their bytes, is no answer.
MAX_INTERIM_ANSWERS = 100
MAX_INTERIM_BYTES = 65_536
# What some proxies say as they close a connection that was not used for a while.
IDLE = (b"HTTP/1.1 408", b"HTTP/1.0 408")


@dataclass(slots=True)
class Progress:
    """How far one request got. What goes to a proxy, or makes TLS, is not the request."""

    dialed: bool = False  # a new connection was begun for it
    written: bool = False  # its first byte may have left
    answered: bool = False  # the first byte of an answer came
    connect_status: int | None = None  # what the proxy answered to CONNECT


class SinkConnection:
    """The one connection of a client, and the progress of the request in hand.

    `trusted`: the sink has never sent more than it was asked for. A surplus answer that arrives
    while a request is on its way is taken for that one's, so one is reason enough to give each
    request its own connection.
    """

    def __init__(self, guard: DeadlineGuard) -> None:
        self.guard = guard
        self.dialer = Dialer(guard)
        self.progress = Progress()
        self.connection: HTTPConnection | None = None
        self.response: TrackedResponse | None = None
        self.trusted = True

    def is_spoilt(self) -> bool:
        """Whether anything has come on the kept connection since its last answer, or its end."""
        kept = self.connection.sock if self.connection else None
        if kept is None or not _is_readable(kept):
            return False
        timeout = kept.gettimeout()
        kept.settimeout(0)
        try:
            # TLS has messages of its own, which make a socket readable and are no surplus.
            self._note_surplus(kept.recv(len(IDLE[0])))
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            pass
        finally:
            kept.settimeout(timeout)
        return True

    def end_response(self) -> None:
        """The answer was read to its end."""
        if self.response is not None:
            self._note_surplus(self.response.lines.left)

    def _note_surplus(self, came: bytes) -> None:
        """What came after an answer; nothing if the other side has closed the connection."""
        if came and self.trusted and not came.startswith(IDLE):
            self.trusted = False
            LOGGER.warning("sink_surplus the sink sends more than one answer to a request")

    def close(self) -> None:
        """Close the connection; the next request opens another and finds nothing stray in it."""
        if self.response is not None:
            # It shares the socket; Python 3.11 leaves a proxy's refusal of CONNECT open.
            self.response.close()
            self.response = None
        if self.connection is not None:
            self.connection.close()


def _is_readable(kept: Any) -> bool:
    """Also if TLS has read something that nobody has asked for yet."""
    poll = select.poll()
    poll.register(kept, select.POLLIN)
    pending = getattr(kept, "pending", None)
    return bool(poll.poll(0)) or bool(pending and pending())


class Wanted(io.RawIOBase):
    """A socket's bytes, for as long as they are wanted: then there are none."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return None if self.over else self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class WholeLines(io.BufferedReader):
    """http.client takes a closed connection for the end of the headers; here it is an error.

    `left`: what had been read, when this was closed, and nobody has asked for. `in_lines`: bytes.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._wanted = Wanted(raw)
        super().__init__(self._wanted)
        self.left = b""
        self.in_lines = 0

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and len(line) != size:
            raise http.client.RemoteDisconnected("in the middle of a line")
        self.in_lines += len(line)
        return line

    def close(self) -> None:
        if not self.closed:
            self._wanted.over = True
            self.left = self.peek()
        super().close()


class TrackedResponse(http.client.HTTPResponse):
    """Notices the first byte of an answer, and what a proxy answers to CONNECT."""

    def __init__(self, sink_connection: SinkConnection, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp = self.lines = WholeLines(self.fp.detach())
        self._sink_connection = sink_connection
        sink_connection.response = self

    def _read_status(self) -> tuple[str, int, str]:
        # Private, but the only step that answers to requests and to CONNECT have in common.
        progress = self._sink_connection.progress
        progress.answered = bool(self.fp.peek(1))
        for _ in range(MAX_INTERIM_ANSWERS + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status <= 199:
                break
            while self.lines.readline(MAX_INTERIM_BYTES).strip():
                if self.lines.in_lines > MAX_INTERIM_BYTES:
                    raise http.client.HTTPException("endless interim answer")
        else:
            raise http.client.HTTPException("no end of interim answers")
        if not progress.written:
            progress.connect_status = status
        return version, status, reason


class PlainConnection(HTTPConnection):
    """Tells its line what becomes of the request."""

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
        kept = not self._connecting and not progress.dialed
        if kept and self._sink_connection.is_spoilt():
            if progress.written:
                raise ConnectionResetError("this cannot be the answer: the request is not out yet")
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
