"""Reads config.ini and its drop-ins as texts, with a line for each mistake in their form."""

import configparser
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sensor_node.config.places import drop_in_directory
from sensor_node.system.files import FOREIGN_LINK, is_foreign_link
from sensor_node.system.text import name_without_password

Sections = dict[str, dict[str, str]]  # section → option → text
WANTED_LINE = "OPTION = VALUE, after a line [SECTION]"
# Marks an indentation that the parser must keep. No text file has this character.
GUARD = "\0"
COMMENTS = ("#", ";")
_TWICE = (configparser.DuplicateSectionError, configparser.DuplicateOptionError)


def read_all(file: Path) -> Iterator[tuple[Path, Sections, list[str]]]:
    """Each file with its sections and its mistakes. A later file wins over an earlier one."""
    yield (file, *_read(file))
    directory = drop_in_directory(file)
    if is_foreign_link(directory):
        yield directory, {}, [f"{directory}: {FOREIGN_LINK}"]
        return
    try:
        # glob() takes a directory that it may not read for an empty one.
        entries = sorted(directory.iterdir()) if directory.exists() else []
    except OSError as error:
        yield directory, {}, [f"{directory}: cannot be read: {_reason(error)}"]
        return
    for drop_in in filter(is_read, entries):
        if is_foreign_link(drop_in):
            yield drop_in, {}, [f"{drop_in}: {FOREIGN_LINK}"]
        else:
            yield (drop_in, *_read(drop_in))


def unread(file: Path) -> list[Path]:
    """The files among the drop-ins that are not read, except hidden ones."""
    try:
        entries = sorted(drop_in_directory(file).iterdir())
    except OSError:
        return []
    return [path for path in entries if not is_read(path) and not path.name.startswith(".")]


def is_read(drop_in: Path) -> bool:
    """Hidden files are not: editors and other systems leave them, and they are no configuration."""
    return drop_in.suffix == ".ini" and not drop_in.name.startswith(".")


def _read(file: Path) -> tuple[Sections, list[str]]:
    try:
        with open(file, encoding="utf-8-sig", opener=_open_regular) as opened:
            text = opened.read()
    except (OSError, UnicodeDecodeError) as error:
        return {}, [f"{file}: cannot be read: {_reason(error)}"]
    errors = []
    # Strict parsing ends at a name that comes twice. The second pass finds the other mistakes.
    for strict in (True, False):
        # No file can contain this name of the default section, so [DEFAULT] is refused.
        parser = configparser.ConfigParser(
            interpolation=None, default_section="\n", empty_lines_in_values=False, strict=strict
        )
        parser.optionxform = _option_name  # type: ignore[assignment]
        try:
            parser.read_string(_guarded(text), str(file))
        except _TWICE as error:
            name = ""
            if isinstance(error, configparser.DuplicateOptionError):
                name = f" {name_without_password(error.option)}"
            place = f"[{name_without_password(error.section)}]{name}"
            errors.append(f"{file}: line {error.lineno}: {place} comes twice")
            continue
        except configparser.ParsingError as error:
            for number in _line_numbers(error):
                # The line is not quoted: it may be the rest of a URL with a password.
                errors.append(f"{file}: line {number}: want {WANTED_LINE}")
        break
    # A line without a name is among the errors already.
    return {
        section: {name: _unguarded(value) for name, value in parser.items(section) if name}
        for section in parser.sections()
    }, errors


def _guarded(text: str) -> str:
    """The text with a GUARD before each indentation of a line that continues a value.

    The parser strips lines, and would take away the indentation of a program in a value. As for
    configparser, a line continues the value if it is indented more than the option; a blank line
    or a comment ends the value.
    """
    lines, option_depth = [], None
    for line in text.split("\n"):
        words = line.lstrip()
        indentation = line[: len(line) - len(words)]
        if not words.strip() or words.startswith(COMMENTS):
            option_depth = None
        elif option_depth is not None and len(indentation) > option_depth:
            line = f"{indentation}{GUARD}{indentation}{words}"
        else:
            option_depth = None if words.startswith("[") else len(indentation)
        lines.append(line)
    return "\n".join(lines)


def _unguarded(value: str) -> str:
    """The value without its margin, which is the indentation of its second line."""
    first, *others = value.replace(GUARD, "").split("\n")
    margin = others[0][: len(others[0]) - len(others[0].lstrip())] if others else ""
    stripped = (
        line.removeprefix(margin) if line.startswith(margin) else line.lstrip() for line in others
    )
    return "\n".join([first, *stripped])


def _option_name(text: str) -> str:
    return text.replace(GUARD, "").strip().lower()


def _open_regular(file: str, flags: int) -> int:
    """Opens only a regular file: a pipe or a device would block. A link may lead to any of them."""
    descriptor = os.open(file, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", file)
    return descriptor


def _line_numbers(error: configparser.ParsingError) -> list[int]:
    if isinstance(error, configparser.MissingSectionHeaderError):
        return [error.lineno]
    return [number for number, _ in error.errors]


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    hint = "; try as root" if isinstance(error, PermissionError) else ""
    return f"{error.strerror}{hint}"
