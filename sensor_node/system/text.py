"""Makes text from outside fit for a log and for a person's terminal, and masks passwords in it."""

import re

SHOWN_CHARACTERS = 200

MASK = "***"
_SCHEME = re.compile(r":/+")
# What follows a host name and a colon and is no port, so that it may be a password.
_NO_PORT = re.compile(r"(:/+[^/\s:\[]*:)(?!\d{1,5}(?:[/?#\s]|$))[^\s/]+")
# A URL, or what was meant to be one.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:/+)?(?P<user>.*@)?"
    r"(?P<host>(\[[0-9A-Fa-f:.%]+\]|[\w.-]+)(:\d{1,5})?)(?P<path>[/?#].*)?",
    re.DOTALL,
)
_ADDRESS = re.compile(r"@|//|:/|\\\\")


def visible(line: str) -> str:
    """Escape control characters: from a sensor, a sink or a file, they could steer a terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def visible_lines(text: str) -> str:
    """The same for text whose line ends are our own and stay."""
    return "\n".join(map(visible, text.split("\n")))


def one_line(text: str) -> str:
    """All that is printable, on one line, cut to SHOWN_CHARACTERS."""
    return "".join(filter(str.isprintable, " ".join(text.split())))[:SHOWN_CHARACTERS]


def without_password(text: str) -> str:
    """The first line of a text from a configuration, to be quoted, with a password masked.

    The text may be a URL in the wrong place, so anything before an "@" may be a password.
    """
    text, newline, _ = text.partition("\n")
    more = " …" if newline else ""
    scheme = _SCHEME.search(text)
    start, end = scheme.end() if scheme else 0, text.rfind("@")
    if end >= start:
        return f"{text[:start]}{MASK}{text[end:]}{more}"
    return _NO_PORT.sub(rf"\1{MASK}", text) + more


def url_without_password(text: str) -> str:
    """Scheme and host of what should be a URL; MASK if one cannot tell which part is which."""
    url = _URL.fullmatch(text)
    if not url or not (url["scheme"] or url["user"]):
        return MASK
    user = f"{MASK}@" if url["user"] else ""
    path = url["path"] or ""
    if len(path) > 1:
        path = f"{path[0]}…"
    return f"{url['scheme'] or ''}{user}{url['host']}{path}"


def name_without_password(name: str) -> str:
    """The name of a section or an option; masked if it looks like an address."""
    return MASK if _ADDRESS.search(name) else name
