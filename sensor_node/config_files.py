"""Reads config.ini and its drop-ins as texts; whatever is wrong in their form is a line each."""

import configparser
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sensor_node.places import drop_in_directory
from sensor_node.text import without_password

Sections = dict[str, dict[str, str]]
WANTED_LINE = "OPTION = VALUE, after a line [SECTION]"
_TWICE = (configparser.DuplicateSectionError, configparser.DuplicateOptionError)


def read_all(file: Path) -> Iterator[tuple[Path, Sections, list[str]]]:
    """Each file with what it says and its mistakes, in the order in which later ones count."""
    yield (file, *_read(file))
    directory = drop_in_directory(file)
    try:
        # glob() would take a directory that it may not read for an empty one.
        found = sorted(directory.iterdir()) if directory.exists() else []
    except OSError as error:
        yield directory, {}, [f"{directory}: cannot be read: {_reason(error)}"]
        return
    for drop_in in found:
        if is_read(drop_in):
            yield (drop_in, *_read(drop_in))


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
        try:
            parser.read_string(text, str(file))
        except _TWICE as error:
            name = (
                f" {error.option}" if isinstance(error, configparser.DuplicateOptionError) else ""
            )
            what = without_password(f"[{error.section}]{name}")
            errors.append(f"{file}: line {error.lineno}: {what} comes twice")
            continue
        except configparser.ParsingError as error:
            for number in _lines_of(error):
                line = without_password(text.split("\n")[number - 1].strip())
                errors.append(f"{file}: line {number}, {line!r}: want {WANTED_LINE}")
        break
    # A line without a name is a mistake already.
    sections = {section: dict(parser.items(section)) for section in parser.sections()}
    return {name: {k: v for k, v in texts.items() if k} for name, texts in sections.items()}, errors


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
