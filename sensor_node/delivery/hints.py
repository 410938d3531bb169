"""Hints: what a person should do where time alone repairs nothing."""

import errno
import grp
import os
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from sensor_node.config.loader import SinkConfig
from sensor_node.core.errors import ConfigError

URL = "check [sink] url"
PROXY = "check [sink] proxy"
FILE = "correct that file or option; the file is read again when it changes"
PORTAL = f"log in to the network, or {URL}: a sink must not answer in HTML or XML"
ENGINE = f"{URL}: it must lead to a sink that knows [sink] format"
READABLE = "let group {0} read it: chgrp {0} {1}; chmod g+r {1}"
SEARCHABLE = "let group {0} into its directory: chgrp {0} {1}; chmod g+x {1}"
CERTIFICATE = (
    "check [sink] ca_file and url, and the clock: a wrong clock makes certificates invalid"
)
TLS = f"if it lasts: {URL} (https?), cert_file and key_file"
OLD_TLS = f"let the other side speak TLS 1.2 or newer; or {URL}: it must lead to one that does"
NOT_HTTP = f"if it lasts: {URL} (http or https? the port?)"
OPEN_FILES = "raise the limit on open files: LimitNOFILE= of the service, or ulimit -n"
THREADS = "raise the limit on threads: TasksMax= of the service, or ulimit -u"
LIBRARY = f"install what is missing, or {OPEN_FILES}"
ZONE = f"{URL}: an address fe80:… needs its interface, as in [fe80::1%25eth0]"
BY_ERROR = {
    errno.EMFILE: OPEN_FILES,
    errno.ENFILE: OPEN_FILES,
    errno.EAGAIN: THREADS,
    errno.EINVAL: ZONE,
}
BY_STATUS = {
    404: URL,
    405: URL,
    406: "check [sink] format",
    407: f"{PROXY}: it asks for a password, which sensor-node does not give",
    410: URL,
    415: "check [sink] format and compression",
}
# Shown only if the sink is DOWN, and not if it refuses a single message.
REFUSES_ALL = "if it refuses everything: check [sink] format, compression and url"
OTHERS = "ask who runs the sink; [sink] refused_statuses if it means the readings"


def for_file(error: ConfigError) -> str:
    """For a file, named by an option, that cannot be used."""
    cause = error.__cause__
    if not isinstance(cause, PermissionError) or not cause.filename:
        return FILE
    file = Path(cause.filename).absolute()
    group = _group_name()
    for directory in reversed(file.parents):
        if not os.access(directory, os.X_OK, effective_ids=True):
            return SEARCHABLE.format(group, directory)
    return READABLE.format(group, file)


def _group_name() -> str:
    """The name of this process's group; its number if it has none."""
    try:
        return grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        return str(os.getegid())


def for_answer(status: int, location: str, sink: SinkConfig) -> str:
    """For an answer that is MISCONFIGURED. `location`: of a redirect, as its header says."""
    if status < 300:
        return "check [sink] success_statuses"
    if status < 400:
        target = _target(sink.url, location)
        return f"the sink redirects to {target}: put that into [sink] url" if target else URL
    if status in (401, 403):
        if sink.token_file:
            return "check [sink] token_file"
        if sink.username:
            return "check [sink] username and password_file"
        return "set [sink] token_file, or username and password_file"
    return BY_STATUS.get(status, OTHERS)


def _target(url: str, location: str) -> str:
    """Where a redirect leads, without user, query and fragment, which may be secret."""
    try:
        parts = urlsplit(urljoin(url, location))
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl() if location else ""
