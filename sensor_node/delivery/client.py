"""POSTs one batch and returns what came of it: whatever goes wrong is an Outcome, no exception."""

import gzip
from dataclasses import replace

import requests

from sensor_node import __version__
from sensor_node.config.loader import SinkConfig
from sensor_node.core.clock import Clock
from sensor_node.core.errors import ConfigError
from sensor_node.core.model import Outcome, Verdict
from sensor_node.delivery import failures, hints
from sensor_node.delivery.answers import SinkResponse, interpret
from sensor_node.delivery.connection import Progress, SinkConnection
from sensor_node.delivery.credentials import Credentials, tls_context, tls_files
from sensor_node.delivery.deadline import DeadlineGuard
from sensor_node.delivery.session import Session, read_beginning
from sensor_node.delivery.signature import signatures
from sensor_node.delivery.strangers import ENGINES
from sensor_node.delivery.unforeseen import Unforeseen

# Servers and NATs drop idle connections, often after 30 s or 60 s, and some do not tell the client.
KEEP_ALIVE_SECONDS = 20.0
# The guard ends a request at its deadline. Sockets time out so much later, if the guard has failed.
BACKSTOP_SECONDS = 1.0
# The status line decides the verdict, so the body gets no more time than this.
BODY_SECONDS = 1.0
GZIP_LEVEL = 6  # 9 takes twice as long for a percent less


class HttpTelemetryClient:
    """One connection to the sink, for one thread. Create it in the process that uses it."""

    def __init__(self, sink: SinkConfig, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._credentials = Credentials(sink)
        self._unforeseen = Unforeseen(self._credentials.mask)
        self._guard = DeadlineGuard()
        self._sink_connection = SinkConnection(self._guard)
        self._session: Session | None = None
        self._tls_files = tls_files(sink)
        self._tls_seen = signatures(())
        self._last_used = float("-inf")

    @property
    def files(self) -> frozenset[str]:
        """Files with certificates and secrets: if one changes, the sink may be usable again."""
        return frozenset((*self._tls_files, *self._sink.secret_files))

    def post(self, body: bytes, key: str) -> Outcome:
        """Send an encoded, uncompressed batch under its idempotency key, within [sink] timeout.

        With at-least-once the request may leave twice: if a kept connection turns out to be dead.
        """
        try:
            headers = self._headers(key)
            session = self._current_session()
        except ConfigError as error:
            return Outcome(
                Verdict.MISCONFIGURED, str(error), hints.for_file(error), fate_known=True
            )
        except Exception as error:
            return self._unforeseen.outcome(error, fate_known=True)
        if self._sink.compression == "gzip":
            body = gzip.compress(body, GZIP_LEVEL, mtime=0)
        idle_seconds = self._clock.now().monotonic - self._last_used
        was_trusted = self._sink_connection.trusted
        if idle_seconds >= KEEP_ALIVE_SECONDS or self._sink_connection.is_spoilt():
            self._sink_connection.close()
        self._guard.arm(self._sink.timeout)
        try:
            outcome = self._deliver(session, body, headers)
            if was_trusted and not self._sink_connection.trusted:
                outcome = replace(outcome, surplus=True)
            return outcome
        finally:
            if self._guard.disarm() or self._sink.at_most_once or not self._sink_connection.trusted:
                self._sink_connection.close()
            self._last_used = self._clock.now().monotonic

    def close(self) -> None:
        self._sink_connection.close()
        if self._session is not None:
            self._session.close()
        self._guard.close()

    def _headers(self, key: str) -> dict[str, str]:
        headers = {
            "User-Agent": f"sensor-node/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",  # an answer is shown to people as it comes
            "Connection": "keep-alive",
            "Content-Type": self._sink.format.content_type,
            "Idempotency-Key": key,
        }
        if self._sink.compression == "gzip":
            headers["Content-Encoding"] = "gzip"
        if authorization := self._credentials.authorization():
            headers["Authorization"] = authorization
        return headers

    def _current_session(self) -> Session:
        """The session; a new one if a certificate file has changed. Raises ConfigError."""
        seen = signatures(self._tls_files)
        if self._session is None or seen != self._tls_seen:
            self._sink_connection.close()
            self._session = None  # also if the new files turn out to be unusable
            self._session = Session(self._sink, self._sink_connection, tls_context(self._sink))
            self._tls_seen = seen
        return self._session

    def _deliver(self, session: Session, body: bytes, headers: dict[str, str]) -> Outcome:
        result = self._try(session, body, headers)
        if isinstance(result, SinkResponse) or not self._was_stale(result):
            return self._judge(result)
        outcome = self._judge(self._try(session, body, headers))
        # Nobody knows what came of the first copy, whatever came of the second.
        return replace(outcome, fate_known=outcome.verdict is Verdict.DELIVERED)

    def _try(
        self, session: Session, body: bytes, headers: dict[str, str]
    ) -> SinkResponse | Exception:
        self._sink_connection.progress = Progress()
        try:
            timeout = self._guard.left() + BACKSTOP_SECONDS
            with session.post(body, headers, timeout) as response:
                sink_response = self._read(response)
        except Exception as error:
            self._sink_connection.close()
            self._sink_connection.dialer.judge(good=False)
            return error
        self._sink_connection.dialer.judge(good=sink_response.status < 500)
        return sink_response

    def _read(self, response: requests.Response) -> SinkResponse:
        """The answer. The connection is kept only if the answer is good and was read to its end.

        After a surplus answer that nobody noticed, each answer belongs to the request before. So a
        bad one closes the connection: it is taken for the answer to one wrong batch, and no more.
        """
        body = bytearray()
        self._guard.shorten(BODY_SECONDS)
        final = 200 <= response.status_code <= 599
        whole = final and read_beginning(response, body)
        if whole:
            self._sink_connection.end_response()
        if not whole or response.status_code >= 300:
            self._sink_connection.close()
        headers, mask = response.headers, self._credentials.mask
        return SinkResponse(
            response.status_code,
            mask(response.reason or ""),
            mask(body.decode(errors="replace")),
            headers.get("Content-Type", ""),
            next((engine for header, engine in ENGINES.items() if header in headers), ""),
            mask(headers.get("Location", "")),
            headers.get("Retry-After", ""),
            headers.get("Date", ""),
        )

    def _was_stale(self, error: Exception) -> bool:
        """Whether a kept connection was found dead, in which case the request may be repeated."""
        progress = self._sink_connection.progress
        if self._sink.at_most_once or self._guard.expired or progress.dialed or progress.answered:
            return False
        return failures.is_drop(error)

    def _judge(self, result: SinkResponse | Exception) -> Outcome:
        progress = self._sink_connection.progress
        if isinstance(result, SinkResponse):
            return interpret(result, self._sink, self._clock.now().wall)
        if isinstance(result, failures.FORESEEN):
            return failures.outcome_of(result, progress, self._sink, self._guard.expired)
        return self._unforeseen.outcome(result, fate_known=not progress.written)
