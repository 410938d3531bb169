"""Every command of sensor-node-ctl, in one table: name, help, arguments, and how it is run.

The command line is made from this table, and so is the completion for bash. The manual page is
tested against it.
"""

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from sensor_node import __version__
from sensor_node.control import exits
from sensor_node.core.model import MessageStatus
from sensor_node.core.options import parse_duration

# SQLite counts to 9223372036854775807.
MOST_DIGITS = 18
DURATIONS = ("10m", "24h", "7d")


class ConfigFrom(Enum):
    """Where a command's configuration comes from."""

    NOWHERE = auto()  # the command has none
    FILES = auto()  # what the files say now
    IN_FORCE = auto()  # what a running node has read, which its files may not say any more


class DropFor(Enum):
    """Whom root becomes before a command's function runs: docs/adr/0023-root.md."""

    NODE = auto()  # the owner of the configuration, the node's directories or the database
    CONFIG = auto()  # the owner of the way to the configuration; the function drops the rest
    DATABASE = auto()  # the owner of `database`, an argument of the command


class Argument:
    """What argparse.ArgumentParser.add_argument() takes: names or flags, and settings by name."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self.names = names
        self.settings = settings

    @property
    def is_option(self) -> bool:
        return self.names[0].startswith("-")

    @property
    def takes_value(self) -> bool:
        return "action" not in self.settings

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(*self.names, **self.settings)


def accept(options: argparse.Namespace) -> str:
    """No mistake: the arguments are good in any combination."""
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One row. Functions are "module:function", imported when the command runs.

    `function` gets the configuration, if there is one, and each argument by its name; it returns
    the exit status.
    """

    name: str
    help: str
    function: str
    arguments: tuple[Argument, ...] = ()
    # What is wrong with arguments that are good one by one; else empty.
    mistake_in: Callable[[argparse.Namespace], str] = accept
    config_from: ConfigFrom = ConfigFrom.IN_FORCE
    drop_for: DropFor = DropFor.NODE
    # Gets the configuration file and does the same through systemd; returns the exit status, or
    # None where no systemd runs this node. Empty: systemd is not asked.
    by_systemd: str = ""
    # Whether it is refused where the kernel has no pidfd_open(2).
    needs_pidfd: bool = False
    # Whether this process becomes the node. Its own faults go to the journal in full.
    is_service: bool = False
    # The exit status where the configuration or a file cannot be read, if it is always the same.
    unreadable: int | None = None


def load(name: str) -> Any:
    """The function that "module:function" names."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def duration(text: str) -> float:
    """Seconds of a duration. Raises ArgumentTypeError."""
    try:
        return parse_duration(text)
    except ValueError:
        examples = ", ".join(DURATIONS)
        raise argparse.ArgumentTypeError(f"{text!r}: want a duration such as {examples}") from None


def count(text: str) -> int:
    """A whole number above 0. Raises ArgumentTypeError."""
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: want a whole number above 0")
    return int(text)


def mistake_in_requeue(options: argparse.Namespace) -> str:
    """Messages are named by their ids or by their statuses, not by both."""
    all_of_a_status = options.dead or options.in_doubt
    if bool(all_of_a_status) == bool(options.ids):
        return "name message ids, or --dead, or --in-doubt"
    return ""


# Before the command.
OPTIONS = (
    Argument("-c", metavar="FILE", dest="config", help="configuration file"),
    Argument("--version", action="version", version=f"sensor-node {__version__}"),
)
JSON = Argument("--json", action="store_true", dest="as_json", help="for programs")
COMMANDS = (
    Command(
        name="start",
        help="start in the background; return when every process is ready",
        function="sensor_node.control.lifecycle:start",
        config_from=ConfigFrom.FILES,
        by_systemd="sensor_node.control.systemctl:start",
        needs_pidfd=True,
    ),
    Command(
        name="stop",
        help="stop gracefully; say what is still buffered",
        function="sensor_node.control.lifecycle:stop",
        by_systemd="sensor_node.control.systemctl:stop",
    ),
    Command(
        name="restart",
        help="stop, then start",
        function="sensor_node.control.lifecycle:restart",
        config_from=ConfigFrom.FILES,
        by_systemd="sensor_node.control.systemctl:restart",
        needs_pidfd=True,
    ),
    Command(
        name="reload",
        help="check the configuration, then give it to all processes",
        function="sensor_node.control.lifecycle:reload",
        config_from=ConfigFrom.FILES,
        by_systemd="sensor_node.control.systemctl:reload",
    ),
    Command(
        name="status",
        help="how things are, what is wrong and what to do about it",
        function="sensor_node.control.status:status",
        arguments=(JSON,),
        unreadable=exits.UNKNOWN,
    ),
    Command(
        name="check",
        help="validate the configuration; touch nothing",
        function="sensor_node.control.check:check",
        arguments=(
            Argument(
                "--print",
                action="store_true",
                dest="with_values",
                help="each option, and its file",
            ),
        ),
        config_from=ConfigFrom.FILES,
        drop_for=DropFor.CONFIG,
    ),
    Command(
        name="run",
        help="run in the foreground, for systemd",
        function="sensor_node.supervision.appliance:run",
        config_from=ConfigFrom.FILES,
        is_service=True,
    ),
    Command(
        name="messages",
        help="list messages",
        function="sensor_node.control.inspect:messages",
        arguments=(
            JSON,
            Argument(
                "--status", choices=[status.value for status in MessageStatus], help="only these"
            ),
            Argument("--since", metavar="D", type=duration, help="such as 10m, 24h"),
            Argument("--limit", metavar="N", type=count, default=20),
        ),
    ),
    Command(
        name="show",
        help="show one message",
        function="sensor_node.control.inspect:show",
        arguments=(JSON, Argument("id_text", metavar="ID")),
    ),
    Command(
        name="history",
        help="outages, drops, restarts",
        function="sensor_node.control.inspect:history",
        arguments=(JSON, Argument("--since", metavar="D", type=duration, default="7d")),
    ),
    Command(
        name="requeue",
        help="send DEAD, IN_DOUBT or SENT messages again",
        function="sensor_node.control.requeue:requeue",
        arguments=(
            Argument("ids", metavar="ID", nargs="*"),
            Argument("--dead", action="store_true", help="all that are DEAD"),
            Argument("--in-doubt", action="store_true", help="all that are IN_DOUBT"),
        ),
        mistake_in=mistake_in_requeue,
    ),
    Command(
        name="salvage",
        help="bring the undelivered readings of an old or damaged database back",
        function="sensor_node.control.salvage:salvage",
        arguments=(Argument("file", metavar="FILE", type=Path, help="the old database"),),
    ),
    Command(
        name="audit",
        help="recount every row: is every reading accounted for?",
        function="sensor_node.control.inspect:audit",
    ),
    Command(
        name="sink",
        help="run a small deduplicating sink, for trying things out",
        function="sensor_node.sink.server:serve",
        arguments=(
            Argument("--host", default="127.0.0.1"),
            Argument("--port", type=int, default=8470, help="0: any free one"),
            Argument(
                "--db",
                type=Path,
                dest="database",
                metavar="DB",
                default=Path("sink.db"),
                help="its own database",
            ),
        ),
        config_from=ConfigFrom.NOWHERE,
        drop_for=DropFor.DATABASE,
    ),
)
