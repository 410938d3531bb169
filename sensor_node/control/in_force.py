"""The configuration in force: that of the running node, whose files may have changed since."""

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
    """What the node has read if it runs, so that a mistake in its files does not hide it.

    Otherwise what the files say. Raises ConfigError with a line for each mistake.
    """
    file = Path(os.path.abspath(file))
    _, runtime = directories(file)
    pid = running_pid(runtime)
    report = report_of(runtime, pid)
    if report:
        # The report may be another version's, or no node's: then its settings may be impossible.
        with contextlib.suppress(ConfigError):
            return replace(config_of(file, report.settings), node_id=report.node)
    try:
        return load_config(file)
    except ConfigError as error:
        outline = read_outline(runtime, pid)
        if outline is None:
            raise
        running = f"version {outline.version} runs by what it read before"
        raise ConfigError(*error.lines, f"{running}; this is version {__version__}") from None


def insist_on_one_version(config: Config) -> None:
    """Raises SensorNodeError if another version runs: only that one may change the database."""
    outline = read_outline(config.runtime_directory, running_pid(config.runtime_directory))
    if outline and outline.version != __version__:
        raise SensorNodeError(
            f"version {outline.version} runs, and this is {__version__}; "
            "first: sensor-node-ctl restart"
        )


def drift(config: Config) -> tuple[str, str]:
    """Compare the files with the configuration in force, `config`.

    Returns the mistake in the files, and the command that puts their changes in force. Both are
    empty if nothing has changed; one is empty at least.
    """
    try:
        files = load_config(config.file)
    except ConfigError as error:
        more = len(error.lines) - 1
        return error.lines[0] + (f" (and {more} more)" if more else ""), ""
    if files.effective == config.effective:
        return "", ""
    return "", "reload" if files.storage.path == config.storage.path else "restart"
