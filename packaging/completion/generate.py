"""Prints the completion for bash: the table of commands, then the function that goes by it.

From the top of the source: PYTHONPATH=. python3 packaging/completion/generate.py
"""

import shlex
from pathlib import Path

from sensor_node.control import commands
from sensor_node.control.commands import DURATIONS, Argument

FILES = "@files"


def values_of(argument: Argument) -> str:
    """What may stand for an option's value, or for an argument that is no option."""
    settings = argument.settings
    if "choices" in settings:
        return " ".join(settings["choices"])
    if settings.get("type") is Path:
        return FILES
    if settings.get("type") is commands.duration:
        return " ".join(DURATIONS)
    return str(settings.get("default", ""))


def table() -> str:
    """Two arrays. The key of a value is COMMAND:OPTION, or COMMAND: without an option."""
    options, values = {}, {}
    for command in commands.COMMANDS:
        own = [argument for argument in command.arguments if argument.is_option]
        options[command.name] = " ".join([*(option.names[0] for option in own), "--help"])
        for argument in command.arguments:
            option = argument.names[0] if argument.is_option else ""
            if argument.takes_value:
                values[f"{command.name}:{option}"] = values_of(argument)
    return _array("_sensor_node_ctl_options", options) + _array("_sensor_node_ctl_values", values)


def _array(name: str, rows: dict[str, str]) -> str:
    lines = [f"    [{shlex.quote(key)}]={shlex.quote(text)}\n" for key, text in rows.items()]
    return "".join([f"declare -gA {name}=(\n", *lines, ")\n"])


if __name__ == "__main__":
    print(table(), end="")
    print(Path(__file__).with_name("sensor-node-ctl.bash").read_text(), end="")
