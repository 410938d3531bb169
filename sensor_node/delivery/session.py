"""POSTs with the library requests: on one kept connection, and without its session's habits."""

import http.client
import logging
import re
import ssl
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from sensor_node.config.loader import SinkConfig
from sensor_node.delivery.connection import PlainConnection, SecureConnection, SinkConnection

MAX_ANSWER_BYTES = 65_536
ZONE = re.compile("%[^]]*")
READ_BYTES = 1024


class Session:
    """POSTs to `sink`, whose certificates `tls` verifies (None: it is plain HTTP).

    The session of requests would look for cookies, .netrc, the environment's proxies and redirects
    at each request. None of them is wanted, and looking takes a tenth of a small request's CPU.
    """

    def __init__(
        self, sink: SinkConfig, sink_connection: SinkConnection, tls: ssl.SSLContext | None
    ) -> None:
        self._url = sink.url
        self._proxies = {"http": sink.proxy, "https": sink.proxy} if sink.proxy else {}
        self._adapter = _Adapter(sink_connection, tls)
        self._request: requests.PreparedRequest | None = None
        # urllib3 logs each odd answer with a traceback; the outcome says the same in one line.
        logging.getLogger("urllib3").setLevel(logging.CRITICAL)

    def post(self, body: bytes, headers: Mapping[str, str], timeout: float) -> requests.Response:
        """The answer, its body still unread. Raises what requests and urllib3 raise."""
        if self._request is None:
            self._request = requests.Request("POST", self._url).prepare()
            # A zone means something to this machine alone: RFC 6874, section 4.
            host = urlsplit(self._url).netloc
            self._request.headers["Host"] = ZONE.sub("", host)
        request = self._request
        request.body = body
        request.headers.update(headers)
        request.headers["Content-Length"] = str(len(body))
        return self._adapter.send(request, stream=True, timeout=timeout, proxies=self._proxies)

    def close(self) -> None:
        self._adapter.close()


def read_beginning(response: requests.Response, body: bytearray) -> bool:
    """Add the answer's body to `body`, to MAX_ANSWER_BYTES; returns whether that is all of it.

    Errors are ignored: the status line decides the verdict, the body is for people.
    """
    try:
        while len(body) <= MAX_ANSWER_BYTES:
            chunk = response.raw.read(READ_BYTES, decode_content=False)
            if not chunk:
                # urllib3 1.26 does not mind if less came than was announced.
                return response.raw.length_remaining in (0, None)
            body += chunk
    except (HTTPError, http.client.HTTPException, OSError, ValueError):
        pass
    return False


class _Adapter(HTTPAdapter):
    """Makes urllib3 use the classes of connection.py. Retries are off, the default of requests."""

    def __init__(self, sink_connection: SinkConnection, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._pools = {
            "http": partial(_pool, HTTPConnectionPool, PlainConnection, sink_connection),
            "https": partial(_pool, HTTPSConnectionPool, SecureConnection, sink_connection),
        }
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        contexts = {"ssl_context": self._tls, "proxy_ssl_context": self._tls}
        manager = super().proxy_manager_for(proxy, **contexts, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: `tls` verifies already, and requests would add its own bundle to a ca_file."""


def _pool(
    pool_class: Any,
    connection_class: Any,
    sink_connection: SinkConnection,
    *args: Any,
    **kwargs: Any,
) -> Any:
    pool = pool_class(*args, **kwargs)
    pool.ConnectionCls = partial(connection_class, sink_connection)
    return pool
