"""The configuration that holds: a running appliance's own, which its files may not say any more."""

import contextlib
import os
from dataclasses import replace
from pathlib import Path

from sensor_node import __version__
from sensor_node.config.loader import Config, config_of, load_config
from sensor_node.config.places import directories
from sensor_node.core.errors import ConfigError, SensorNodeError
from sensor_node.supervision.pidfile import running_pid
from sensor_node.supervision.states import read_outline, report_of


def configuration(file: Path) -> Config:
    """What the appliance goes by if it runs, so that a mistake in the file does not hide it.

    Else what the file says; raises ConfigError with a line for each mistake.
    """
    file = Path(os.path.abspath(file))
    _, runtime = directories(file)
    pid = running_pid(runtime)
    report = report_of(runtime, pid)
    if report:
        # Of another version, or of nobody's: the report may say what cannot be.
        with contextlib.suppress(ConfigError):
            return replace(config_of(file, report.settings), node_id=report.node)
    try:
        return load_config(file)
    except ConfigError as error:
        outline = read_outline(runtime, pid)
        if outline is None:
            raise
        what = f"version {outline.version} runs by what it read before"
        raise ConfigError(*error.lines, f"{what}; this is version {__version__}") from None


def insist_on_one_version(config: Config) -> None:
    """Raises SensorNodeError where a node runs whose database another version may not change."""
    outline = read_outline(config.runtime_directory, running_pid(config.runtime_directory))
    if outline and outline.version != __version__:
        raise SensorNodeError(
            f"version {outline.version} runs, and this is {__version__}; "
            "first: sensor-node-ctl restart"
        )


def drift(config: Config) -> tuple[str, str]:
    """What is wrong with the files of a running appliance, and the command that takes what is new.

    Either may be empty.
    """
    try:
        files = load_config(config.file)
    except ConfigError as error:
        more = len(error.lines) - 1
        return error.lines[0] + (f" (and {more} more)" if more else ""), ""
    if files.effective == config.effective:
        return "", ""
    return "", "reload" if files.storage.path == config.storage.path else "restart"
