"""What it means that no answer came: decided by the types of the errors, never by their texts."""

import http.client
import os
import socket
import ssl
from collections.abc import Iterable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from urllib3.util.ssl_match_hostname import CertificateError

from sensor_node.config.loader import SinkConfig
from sensor_node.core.model import Outcome, Verdict
from sensor_node.delivery import hints
from sensor_node.delivery.answers import TRY_LATER
from sensor_node.delivery.connection import Progress
from sensor_node.delivery.race import NoAddressAnswers
from sensor_node.system.text import one_line

# What sockets, TLS, HTTP and the libraries for them raise; ValueError comes of an odd URL.
FORESEEN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)
CERTIFICATE = (ssl.SSLCertVerificationError, CertificateError)
TIMEOUT = (TimeoutError, urllib3.exceptions.TimeoutError)
# A reset reaches one system call only. By chance that one writes the request, or waits for the
# answer, which else just ends. So all of these are one thing, with one text.
CLOSED = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
DROPPED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
UNUSABLE_URL = (requests.exceptions.InvalidURL, urllib3.exceptions.LocationValueError)
Kind = TypeVar("Kind", bound=BaseException)
# If both sides have no version of TLS in common: the alert of the other side, and our own error.
OLD_TLS = ("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL")
UNKNOWN_NAME = (socket.EAI_NONAME, socket.EAI_NODATA)


def outcome_of(error: Exception, progress: Progress, sink: SinkConfig, expired: bool) -> Outcome:
    """What came of a request that ended with an error of FORESEEN. `expired`: at its deadline."""
    causes = tuple(_causes(error))
    if progress.connect_status not in (None, 200):
        verdict, detail, hint = _explain_tunnel(progress.connect_status or 0)
    elif cause := _first(causes, NoAddressAnswers):
        verdict, detail, hint = _explain_addresses(cause)
    elif expired or _first(causes, *TIMEOUT):
        verdict, detail, hint = Verdict.TRY_LATER, f"timed out after {sink.timeout:g}s", ""
    else:
        verdict, detail, hint = _explain(causes, sink)
    if sink.proxy and not progress.written and progress.connect_status is None:
        detail = f"proxy: {detail}"
    return Outcome(verdict, detail, hint, fate_known=not progress.written)


def is_drop(error: Exception) -> bool:
    """Whether the other side closed or reset the connection."""
    return _first(_causes(error), *DROPPED) is not None


def _explain(causes: tuple[BaseException, ...], sink: SinkConfig) -> tuple[Verdict, str, str]:
    """Verdict, detail and hint; the most telling cause comes first."""
    if _first(causes, *UNUSABLE_URL):
        return Verdict.MISCONFIGURED, "[sink] url or proxy cannot be used", hints.URL
    if untrusted := _first(causes, *CERTIFICATE):
        text = one_line(getattr(untrusted, "verify_message", "") or str(untrusted))
        return Verdict.MISCONFIGURED, f"certificate not trusted: {text}", hints.CERTIFICATE
    if unknown := _first(causes, socket.gaierror):
        host = urlsplit(sink.proxy or sink.url).hostname
        return Verdict.TRY_LATER, f"name not found: {host}{_resolver_reason(unknown)}", ""
    if _first(causes, ssl.SSLEOFError):
        return Verdict.TRY_LATER, "TLS failed: the other side closed the connection", hints.TLS
    if failed := _first(causes, ssl.SSLError):
        # Some versions of Python have no name for some reasons.
        reason = one_line(str(getattr(failed, "reason", None) or failed))
        hint = hints.OLD_TLS if reason in OLD_TLS else hints.TLS
        return Verdict.TRY_LATER, f"TLS failed: {reason.replace('_', ' ').lower()}", hint
    if _first(causes, *CLOSED):
        return Verdict.TRY_LATER, "connection closed without a whole answer", ""
    for cause in causes:
        if isinstance(cause, OSError) and isinstance(cause.errno, int):
            hint = hints.BY_ERROR.get(cause.errno, "")
            return Verdict.TRY_LATER, os.strerror(cause.errno).lower(), hint
    if _first(causes, http.client.HTTPException):
        return Verdict.TRY_LATER, "what came is not an HTTP answer", hints.NOT_HTTP
    return Verdict.TRY_LATER, f"request failed: {type(causes[0]).__name__}", ""


def _explain_addresses(failure: NoAddressAnswers) -> tuple[Verdict, str, str]:
    """The reason if all addresses have the same, else the reason of each."""
    reasons = {address: _reason(error) for address, error in failure.errors.items()}
    if len(set(reasons.values())) == 1:
        detail = next(iter(reasons.values()))
    else:
        detail = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
    numbers = [error.errno or 0 for error in failure.errors.values() if error]
    hint = next((hints.BY_ERROR[number] for number in numbers if number in hints.BY_ERROR), "")
    return Verdict.TRY_LATER, detail, hint


def _reason(error: OSError | None) -> str:
    return os.strerror(error.errno or 0).lower() if error else "no answer"


def _explain_tunnel(status: int) -> tuple[Verdict, str, str]:
    """For a proxy that answered CONNECT with this status."""
    later = status in TRY_LATER
    hint = "" if later else hints.BY_STATUS[407] if status == 407 else hints.PROXY
    verdict = Verdict.TRY_LATER if later else Verdict.MISCONFIGURED
    return verdict, f"the proxy refused to connect: {status}", hint


def _resolver_reason(error: socket.gaierror) -> str:
    """Empty if the name is known not to exist; else why it could not be looked up."""
    return "" if error.errno in UNKNOWN_NAME else f" ({one_line(str(error.strerror))})"


def _first(causes: Iterable[BaseException], *types: type[Kind]) -> Kind | None:
    return next((cause for cause in causes if isinstance(cause, types)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it wraps; requests and urllib3 keep causes among the arguments."""
    causes: list[BaseException] = [error]
    for cause in causes:  # the list grows meanwhile
        yield cause
        wrapped = (cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args)
        for inner in wrapped:
            if isinstance(inner, BaseException) and not any(inner is known for known in causes):
                causes.append(inner)
