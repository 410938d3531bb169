"""What it means that no answer came: told by the types of the errors, never by their texts."""

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

# What sockets, TLS, HTTP and the libraries for them raise; ValueError is what a URL makes of them.
FORESEEN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)
CERTIFICATE = (ssl.SSLCertVerificationError, CertificateError)
TIMEOUT = (TimeoutError, urllib3.exceptions.TimeoutError)
# A reset is told to one system call, and it is chance whether that one writes the request or waits
# for the answer, which otherwise just ends: they are one thing, with one name.
CLOSED = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
DROPPED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
UNUSABLE_URL = (requests.exceptions.InvalidURL, urllib3.exceptions.LocationValueError)
Kind = TypeVar("Kind", bound=BaseException)
# What the other side says, and what this one finds, where there is no version that both speak.
OLD_TLS = ("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL")
UNKNOWN_NAME = (socket.EAI_NONAME, socket.EAI_NODATA)


def of_error(error: Exception, progress: Progress, sink: SinkConfig, expired: bool) -> Outcome:
    """The request ended with an error, or, if `expired`, with its deadline."""
    causes = tuple(_causes(error))
    if progress.connect_status not in (None, 200):
        verdict, detail, hint = _tunnel_refused(progress.connect_status or 0)
    elif cause := _first(causes, NoAddressAnswers):
        verdict, detail, hint = _unreachable(cause)
    elif expired or _first(causes, *TIMEOUT):
        verdict, detail, hint = Verdict.TRY_LATER, f"timed out after {sink.timeout:g}s", ""
    else:
        verdict, detail, hint = _explained(causes, sink)
    if sink.proxy and not progress.written and progress.connect_status is None:
        detail = f"proxy: {detail}"
    return Outcome(verdict, detail, hint, fate_known=not progress.written)


def is_drop(error: Exception) -> bool:
    """Whether the other side closed or reset the connection."""
    return _first(_causes(error), *DROPPED) is not None


def _explained(causes: tuple[BaseException, ...], sink: SinkConfig) -> tuple[Verdict, str, str]:
    if _first(causes, *UNUSABLE_URL):
        return Verdict.MISCONFIGURED, "[sink] url or proxy cannot be used", hints.URL
    if untrusted := _first(causes, *CERTIFICATE):
        text = one_line(getattr(untrusted, "verify_message", "") or str(untrusted))
        return Verdict.MISCONFIGURED, f"certificate not trusted: {text}", hints.CERTIFICATE
    if unknown := _first(causes, socket.gaierror):
        host = urlsplit(sink.proxy or sink.url).hostname
        return Verdict.TRY_LATER, f"name not found: {host}{_resolver_trouble(unknown)}", ""
    if _first(causes, ssl.SSLEOFError):
        return Verdict.TRY_LATER, "TLS failed: the other side closed the connection", hints.TLS
    if failed := _first(causes, ssl.SSLError):
        # Not each reason has a name in each version of Python.
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


def _unreachable(found: NoAddressAnswers) -> tuple[Verdict, str, str]:
    said = {address: _said(error) for address, error in found.answers.items()}
    alike = len(set(said.values())) == 1
    each = "; ".join(f"{address}: {text}" for address, text in said.items())
    numbers = [error.errno or 0 for error in found.answers.values() if error]
    hint = next((hints.BY_ERROR[number] for number in numbers if number in hints.BY_ERROR), "")
    return Verdict.TRY_LATER, next(iter(said.values())) if alike else each, hint


def _said(error: OSError | None) -> str:
    return os.strerror(error.errno or 0).lower() if error else "no answer"


def _tunnel_refused(status: int) -> tuple[Verdict, str, str]:
    later = status in TRY_LATER
    hint = "" if later else hints.BY_STATUS[407] if status == 407 else hints.PROXY
    verdict = Verdict.TRY_LATER if later else Verdict.MISCONFIGURED
    return verdict, f"the proxy refused to connect: {status}", hint


def _resolver_trouble(error: socket.gaierror) -> str:
    """Nothing if the name is known not to exist, else why nobody could say."""
    return "" if error.errno in UNKNOWN_NAME else f" ({one_line(str(error.strerror))})"


def _first(causes: Iterable[BaseException], *types: type[Kind]) -> Kind | None:
    return next((cause for cause in causes if isinstance(cause, types)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it wraps; requests and urllib3 keep causes among the arguments."""
    found: list[BaseException] = [error]
    for cause in found:  # grows on the way
        yield cause
        wrapped = (cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args)
        for each in wrapped:
            if isinstance(each, BaseException) and not any(each is known for known in found):
                found.append(each)
