"""Secrets and certificates in files: read, checked, and read again when they change."""

import base64
import html
import json
import os
import ssl
import stat
from pathlib import Path
from urllib.parse import quote

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util.ssl_ import create_urllib3_context

from sensor_node.config.loader import SinkConfig
from sensor_node.core.errors import ConfigError
from sensor_node.delivery.signature import FileSignature, signatures
from sensor_node.system.text import MASK

# No server accepts a longer header, so a longer file holds no secret.
MAX_SECRET_BYTES = 8192


class Credentials:
    """The token or password that this node shows to the sink."""

    def __init__(self, sink: SinkConfig) -> None:
        self._sink = sink
        self._files = tuple(filter(None, (sink.token_file, sink.password_file)))
        self._seen: dict[str, FileSignature] | None = None
        self._authorization = ""
        self._secrets: tuple[str, ...] = ()

    def authorization(self) -> str:
        """The Authorization header; "" if there is none. Reads the file again if it has changed.

        Raises ConfigError, which names option and file.
        """
        seen = signatures(self._files)
        if seen != self._seen:
            self._seen = None  # in case they cannot be read
            self._read()
            self._seen = seen
        return self._authorization

    def mask(self, text: str) -> str:
        """The text without the secrets: a sink may repeat what it was shown.

        Control characters go too: one inside a secret would hide it here, and be removed later.
        """
        text = "".join(char for char in text if char.isprintable() or char.isspace())
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def _read(self) -> None:
        sink = self._sink
        if sink.token_file:
            token = _read_secret("token_file", sink.token_file).strip()
            if not (token and token.isascii() and token.isprintable()):
                raise _problem("token_file", sink.token_file, "want one line of printable ASCII")
            self._authorization, self._secrets = f"Bearer {token}", _spellings(token)
        elif sink.password_file:
            password = _read_secret("password_file", sink.password_file).rstrip("\r\n")
            if not (password and password.isprintable()):
                raise _problem("password_file", sink.password_file, "want one line of text")
            pair = base64.b64encode(f"{sink.username}:{password}".encode()).decode()
            self._authorization = f"Basic {pair}"
            self._secrets = (*_spellings(pair), *_spellings(password))


def _spellings(secret: str) -> tuple[str, ...]:
    """The secret as it is, and as JSON, PHP's JSON, HTML and URLs write it."""
    quoted = json.dumps(secret)[1:-1]
    spellings = (secret, quoted, quoted.replace("/", "\\/"), html.escape(secret), quote(secret, ""))
    return tuple(dict.fromkeys(spellings))


def tls_files(sink: SinkConfig) -> tuple[str, ...]:
    """The files that tls_context() reads."""
    trusted = sink.ca_file or (DEFAULT_CA_BUNDLE_PATH if _is_secure(sink) else "")
    return tuple(filter(None, (trusted, sink.cert_file, sink.key_file)))


def _is_secure(sink: SinkConfig) -> bool:
    return any(url.lower().startswith("https:") for url in (sink.url, sink.proxy))


def tls_context(sink: SinkConfig) -> ssl.SSLContext | None:
    """A context that trusts ca_file, else the bundle of requests (on Debian: the system's).

    None for plain HTTP without files. Raises ConfigError, which names option and file; OSError if
    the file that SSLKEYLOGFILE names cannot be written.
    """
    named = {"ca_file": sink.ca_file, "cert_file": sink.cert_file, "key_file": sink.key_file}
    if not _is_secure(sink) and not any(named.values()):
        return None
    for option, file in named.items():
        if file:
            _read(option, file)
    try:
        context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    except OSError as error:  # of SSLKEYLOGFILE, which the error itself does not name
        raise OSError(error.errno, error.strerror, os.environ.get("SSLKEYLOGFILE")) from error
    # As urllib3 does from 2.0 on. Without it, an older version fails later and with no clear error.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    trusted = sink.ca_file or DEFAULT_CA_BUNDLE_PATH
    try:
        context.load_verify_locations(trusted)
    except OSError as error:
        raise _problem("ca_file", trusted, "want CA certificates (PEM)") from error
    if sink.cert_file:
        try:
            # Given any password, OpenSSL does not ask for one on the terminal.
            context.load_cert_chain(sink.cert_file, sink.key_file or None, password="")
        except OSError as error:
            wanted = f"want a certificate (PEM) and its unencrypted key {sink.key_file}".rstrip()
            raise _problem("cert_file", sink.cert_file, wanted) from error
    return context


def _read_secret(option: str, file: str) -> str:
    content = _read(option, file)
    if len(content) > MAX_SECRET_BYTES:
        raise _problem(option, file, f"want at most {MAX_SECRET_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _problem(option, file, "want text") from error


def _read(option: str, file: str) -> bytes:
    """The beginning of a regular file. Others are refused: a read of a pipe might wait for ever."""
    try:
        if not stat.S_ISREG(Path(file).stat().st_mode):
            raise _problem(option, file, "want a regular file")
        with Path(file).open("rb") as opened:
            return opened.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise _problem(option, file, error.strerror or type(error).__name__) from error


def _problem(option: str, file: str, reason: str) -> ConfigError:
    return ConfigError(f"[sink] {option} {file}: {reason}")
