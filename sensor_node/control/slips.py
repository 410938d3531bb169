"""Slips: what a configuration says and is almost surely not meant."""

from collections.abc import Iterator

from sensor_node.config.ini import unread
from sensor_node.config.loader import SENSOR_PREFIX, Config, Effective
from sensor_node.config.schema import options_of, sensor_options
from sensor_node.core.options import Option
from sensor_node.system.text import without_password

QUOTES = ("'", '"')


def find(config: Config) -> Iterator[str]:
    """A line for each slip."""
    for sensor in config.sensors:
        if sensor.name != sensor.name.strip():
            section = f"[{SENSOR_PREFIX}{sensor.name}]"
            yield f"{section}: the sensor's name has a blank at its beginning or end"
    sources = {f"{SENSOR_PREFIX}{sensor.name}": sensor.source.name for sensor in config.sensors}
    for row in config.effective:
        if row.file:
            source = sources.get(row.section)
            options = sensor_options(source) if source else options_of(row.section)
            yield from _slips_in(row, options[row.option])
    for file in unread(config.file):
        yield f"{file}: is not read, as its name does not end in .ini"


def _slips_in(row: Effective, option: Option) -> Iterator[str]:
    text = row.value
    setting = f"{row.file}: [{row.section}] {row.option} = {without_password(text)}"
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in QUOTES
    # A shell reads a command, and removes the quotes.
    if is_quoted and not option.kind.is_command:
        yield f"{setting}: the quotes are part of the value"
    number = option.kind.parse(text)
    if not isinstance(number, int | float) or isinstance(number, bool):
        return
    if "_" in text or any(char.isdigit() and not char.isascii() for char in text):
        yield f"{setting}: is taken as {number:.15g}; write it with the digits 0 to 9 alone"
