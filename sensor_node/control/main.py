"""sensor-node-ctl: the command line."""

import argparse
import io
import os
import sys
from pathlib import Path
from typing import NoReturn

from sensor_node.config.loader import Config, load_config
from sensor_node.config.places import find_config
from sensor_node.control import commands, exits
from sensor_node.control.commands import Command, ConfigFrom, DropFor, load
from sensor_node.core.errors import ConfigError, SensorNodeError
from sensor_node.system.proc import insist_on_pidfd
from sensor_node.system.text import visible

CHANGED = (
    "if another program has changed the database, restore it; "
    "else this is a fault of sensor-node: python3 -P -X dev -m sensor_node shows where"
)


def main() -> None:
    """The console script."""
    _open_streams()
    # A character that the locale does not have is printed as an escape.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    command, options = _parse()
    was_root = not os.geteuid()
    try:
        status = _run(command, options)
        print(end="", flush=True)
    except ConfigError as error:
        if command.is_service:
            _tell_systemd(error)
        for line in error.lines:
            _complain(line)
        status = exits.CONFIG if command.unreadable is None else command.unreadable
    except SensorNodeError as error:
        _complain(str(error))
        status = exits.FAILED
    except BrokenPipeError:
        # The reader of the output, such as head, has closed it. That is no error.
        _discard_output()
        status = exits.OK
    except Exception as error:
        # A fault of the service gets a traceback in the journal, and not one line.
        if command.is_service or (sys.flags.dev_mode and not isinstance(error, OSError)):
            raise
        if isinstance(error, OSError):
            _discard_output()  # the output itself may be what cannot be written
            _complain(_os_error(error, command.name, was_root=was_root))
        else:
            _complain(f"{type(error).__name__}: {error}; {CHANGED}")
        status = exits.FAILED if command.unreadable is None else command.unreadable
    sys.exit(status)


def _complain(line: str) -> None:
    print(f"sensor-node-ctl: {visible(line)}", file=sys.stderr)


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _os_error(error: OSError, command: str, *, was_root: bool) -> str:
    hint = _hint(was_root=was_root) if isinstance(error, PermissionError) else ""
    place = error.filename or (command if hint else "output")
    return f"{place}: {error.strerror}{hint}"


def _hint(*, was_root: bool) -> str:
    if not was_root or not os.geteuid():
        return "; try as root"
    from sensor_node.control.privileges import name_of

    name = name_of(os.geteuid())
    return f"; root has become {name}, who owns a part of the way: give it all of the node's files"


def _open_streams() -> None:
    """Open standard streams that were closed at the start: else other files get their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _tell_systemd(error: ConfigError) -> None:
    """Put the reason into `systemctl status`, where it is seen even if no journal is kept."""
    from sensor_node.supervision.systemd import Notifier

    Notifier().send(f"STATUS={error}")


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, as every other error is reported."""

    def error(self, message: str) -> NoReturn:
        self.exit(exits.USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parse() -> tuple[Command, argparse.Namespace]:
    parser = _Parser(
        prog="sensor-node-ctl", description="Controls Sensor Node, a store-and-forward agent."
    )
    for option in commands.OPTIONS:
        option.add_to(parser)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    rows = {command.name: command for command in commands.COMMANDS}
    for name, command in rows.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        for argument in command.arguments:
            argument.add_to(subparser)
    options = parser.parse_args()
    command = rows[options.command]
    if mistake := command.mistake_in(options):
        parser.error(f"{command.name}: {mistake}")
    return command, options


def _run(command: Command, options: argparse.Namespace) -> int:
    """Before root touches a directory, it becomes its owner: docs/adr/0023-root.md."""
    from sensor_node.control import privileges

    arguments = vars(options)
    del arguments["command"]
    path = arguments.pop("config")
    if command.drop_for is DropFor.DATABASE:
        privileges.drop(arguments["database"])
    if command.config_from is ConfigFrom.NOWHERE:
        status: int = load(command.function)(**arguments)
        return status
    file = find_config(path)
    was_root = not os.geteuid()
    privileges.drop(privileges.way_to(file))
    if command.by_systemd and (done := load(command.by_systemd)(file)) is not None:
        return int(done)
    config = _configuration(command, file)
    if command.drop_for is DropFor.NODE:
        privileges.drop(*privileges.of_config(config))
    if command.is_service and was_root and os.geteuid():
        privileges.leave_terminal()
        privileges.begin_anew()
    status = load(command.function)(config, **arguments)
    return status


def _configuration(command: Command, file: Path) -> Config:
    """Raises ConfigError, and SensorNodeError where the kernel lacks what the command needs."""
    if command.config_from is ConfigFrom.FILES:
        config = load_config(file)
        if command.needs_pidfd or any(sensor.source.needs_pidfd for sensor in config.sensors):
            insist_on_pidfd()
        return config
    from sensor_node.control import in_force, privileges

    privileges.drop(*privileges.of_file(file))
    return in_force.configuration(file)
