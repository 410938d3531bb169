"""Text of others' making, made fit for a log and for a person's terminal."""

import re

SHOWN_CHARACTERS = 200

MASK = "***"
_SCHEME = re.compile(r":/+")
# What follows a host's name and a colon, and is no port.
_NO_PORT = re.compile(r"(:/+[^/\s:\[]*:)(?!\d{1,5}(?:[/?#\s]|$))[^\s/]+")
# What may be shown of a URL, or of what was meant to be one: all but who asks and what for.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:/+)?(?P<who>.*@)?"
    r"(?P<host>(\[[0-9A-Fa-f:.%]+\]|[\w.-]+)(:\d{1,5})?)(?P<what>[/?#].*)?",
    re.DOTALL,
)
_ADDRESS = re.compile(r"@|//|:/|\\\\")


def visible(line: str) -> str:
    """Control characters escaped: a sensor, a sink or a file may say them, and steer with them."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def visible_lines(text: str) -> str:
    """The same, where line ends are our own."""
    return "\n".join(map(visible, text.split("\n")))


def one_line(text: str) -> str:
    """Printable, on one line, and not long."""
    return "".join(filter(str.isprintable, " ".join(text.split())))[:SHOWN_CHARACTERS]


def without_password(text: str) -> str:
    """The first line of what a configuration says, to be quoted.

    A password in a URL is not for the log, also where the URL does not belong.
    """
    text, newline, _ = text.partition("\n")
    more = " …" if newline else ""
    scheme = _SCHEME.search(text)
    start, end = scheme.end() if scheme else 0, text.rfind("@")
    if end >= start:
        return f"{text[:start]}{MASK}{text[end:]}{more}"
    return _NO_PORT.sub(rf"\1{MASK}", text) + more


def url_without_password(text: str) -> str:
    """Of what should be a URL: its scheme and host, as far as one can tell what these are."""
    found = _URL.fullmatch(text)
    if not found or not (found["scheme"] or found["who"]):
        return MASK
    who = f"{MASK}@" if found["who"] else ""
    what = found["what"] or ""
    if len(what) > 1:
        what = f"{what[0]}…"
    return f"{found['scheme'] or ''}{who}{found['host']}{what}"


def name_without_password(name: str) -> str:
    """Of a section or an option: nothing of what looks like an address."""
    return MASK if _ADDRESS.search(name) else name
