"""Text of others' making, made fit for a log and for a person's terminal."""

SHOWN_CHARACTERS = 200


def visible(line: str) -> str:
    """Control characters escaped: a sensor, a sink or a file may say them, and steer with them."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def visible_lines(text: str) -> str:
    """The same, where line ends are our own."""
    return "\n".join(map(visible, text.split("\n")))


def one_line(text: str) -> str:
    """Printable, on one line, and not long."""
    return "".join(filter(str.isprintable, " ".join(text.split())))[:SHOWN_CHARACTERS]
