"""Reads config.ini and its drop-ins as texts; whatever is wrong in their form is a line each."""

import configparser
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sensor_node.config.places import drop_in_directory
from sensor_node.system.files import FOREIGN_LINK, is_foreign_link
from sensor_node.system.text import name_without_password

Sections = dict[str, dict[str, str]]
WANTED_LINE = "OPTION = VALUE, after a line [SECTION]"
# Stands before an indentation that is to stay; no text that is meant for a parser has one.
GUARD = "\0"
COMMENTS = ("#", ";")
_TWICE = (configparser.DuplicateSectionError, configparser.DuplicateOptionError)


def read_all(file: Path) -> Iterator[tuple[Path, Sections, list[str]]]:
    """Each file with what it says and its mistakes, in the order in which later ones count."""
    yield (file, *_read(file))
    directory = drop_in_directory(file)
    if is_foreign_link(directory):
        yield directory, {}, [f"{directory}: {FOREIGN_LINK}"]
        return
    try:
        # glob() would take a directory that it may not read for an empty one.
        found = sorted(directory.iterdir()) if directory.exists() else []
    except OSError as error:
        yield directory, {}, [f"{directory}: cannot be read: {_reason(error)}"]
        return
    for drop_in in filter(is_read, found):
        if is_foreign_link(drop_in):
            yield drop_in, {}, [f"{drop_in}: {FOREIGN_LINK}"]
        else:
            yield (drop_in, *_read(drop_in))


def unread(file: Path) -> list[Path]:
    """What lies among the drop-ins and is none, but for hidden files."""
    try:
        found = sorted(drop_in_directory(file).iterdir())
    except OSError:
        return []
    return [one for one in found if not is_read(one) and not one.name.startswith(".")]


def is_read(drop_in: Path) -> bool:
    """Editors and other systems leave hidden files of their own, which are no configuration."""
    return drop_in.suffix == ".ini" and not drop_in.name.startswith(".")


def _read(file: Path) -> tuple[Sections, list[str]]:
    try:
        with open(file, encoding="utf-8-sig", opener=_open_regular) as opened:
            text = opened.read()
    except (OSError, UnicodeDecodeError) as error:
        return {}, [f"{file}: cannot be read: {_reason(error)}"]
    errors = []
    # Parsing ends at a name that comes twice: then once more, for all other mistakes.
    for strict in (True, False):
        # The default section has a name that no file can contain, so that [DEFAULT] is refused.
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
            what = f"[{name_without_password(error.section)}]{name}"
            errors.append(f"{file}: line {error.lineno}: {what} comes twice")
            continue
        except configparser.ParsingError as error:
            for number in _lines_of(error):
                # Not what it says: it may be the rest of a URL, or of anything.
                errors.append(f"{file}: line {number}: want {WANTED_LINE}")
        break
    # A line without a name is a mistake already.
    return {
        section: {name: _unguarded(value) for name, value in parser.items(section) if name}
        for section in parser.sections()
    }, errors


def _guarded(text: str) -> str:
    """So that the parser, which strips lines, keeps the indentation of a program in a value.

    A line goes on with a value if it is deeper than the option's; a blank one, or a comment, ends
    that. As configparser has it.
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
    """Without the margin, which is the indentation of the second line."""
    first, *others = value.replace(GUARD, "").split("\n")
    margin = others[0][: len(others[0]) - len(others[0].lstrip())] if others else ""
    kept = (
        line.removeprefix(margin) if line.startswith(margin) else line.lstrip() for line in others
    )
    return "\n".join([first, *kept])


def _option_name(text: str) -> str:
    return text.replace(GUARD, "").strip().lower()


def _open_regular(file: str, flags: int) -> int:
    """A pipe, or a device, would keep us waiting. Links may lead anywhere."""
    descriptor = os.open(file, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", file)
    return descriptor


def _lines_of(error: configparser.ParsingError) -> list[int]:
    if isinstance(error, configparser.MissingSectionHeaderError):
        return [error.lineno]
    return [number for number, _ in error.errors]


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    hint = "; try as root" if isinstance(error, PermissionError) else ""
    return f"{error.strerror}{hint}"
