"""Text of others' making, made fit for a log and for a person's terminal."""


def visible(line: str) -> str:
    """Control characters escaped: a sensor, a sink or a file may say them, and steer with them."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def visible_lines(text: str) -> str:
    """The same, where line ends are our own."""
    return "\n".join(map(visible, text.split("\n")))
