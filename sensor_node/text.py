"""Text of others' making, made fit for a log and for a person's terminal."""

import re

SHOWN_CHARACTERS = 200

_SCHEME = re.compile(r":/+")
# What follows a host's name and a colon, and is no port.
_NO_PORT = re.compile(r"(:/+[^/\s:\[]*:)(?!\d{1,5}(?:[/?#\s]|$))[^\s/]+")


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
    """What a configuration says, to be quoted: a password in a URL is not for the log.

    Also of a URL that is none, or that is in a line where it does not belong.
    """
    scheme = _SCHEME.search(text)
    start, end = scheme.end() if scheme else 0, text.rfind("@")
    if end >= start:
        return f"{text[:start]}***{text[end:]}"
    return _NO_PORT.sub(r"\1***", text)
