"""sensor-node-ctl: the command line."""

import argparse
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from sensor_node import __version__
from sensor_node.config.loader import Config, load_config
from sensor_node.config.places import find_config
from sensor_node.control import exits
from sensor_node.core.clock import SystemClock
from sensor_node.core.errors import ConfigError, SensorNodeError
from sensor_node.core.model import MessageStatus
from sensor_node.core.options import parse_duration
from sensor_node.system.proc import insist_on_pidfd
from sensor_node.system.text import visible

COMMANDS = """
start     start in the background; return when every process is ready
stop      stop gracefully; say what is still buffered
restart   stop, then start
reload    check the configuration, then give it to all processes
status    how things are, what is wrong and what to do about it
check     validate the configuration; touch nothing
run       run in the foreground, for systemd
messages  list messages
show      show one message
history   outages, drops, restarts
requeue   send DEAD, IN_DOUBT or SENT messages again
salvage   bring the undelivered readings of an old or damaged database back
audit     recount every row: is every reading accounted for?
sink      run a small deduplicating sink, for trying things out
"""
CHANGED = (
    "if another program has changed the database, restore it; "
    "else this is a fault of sensor-node: python3 -P -X dev -m sensor_node shows where"
)
# SQLite counts to 9223372036854775807.
MOST_DIGITS = 18
EARLIEST = -9e12  # wall seconds, which SQLite keeps as microseconds
HELP = dict(line.split(maxsplit=1) for line in COMMANDS.strip().splitlines())


def main() -> None:
    """The console script."""
    _open_streams()
    # What cannot be written in this locale is shown as it can.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments, was_root = _arguments(), not os.geteuid()
    try:
        status = _run(arguments)
        print(end="", flush=True)
    except ConfigError as error:
        if arguments.command == "run":
            _tell_systemd(error)
        for line in error.lines:
            print(f"sensor-node-ctl: {visible(line)}", file=sys.stderr)
        status = exits.UNKNOWN if arguments.command == "status" else exits.CONFIG
    except SensorNodeError as error:
        print(f"sensor-node-ctl: {visible(str(error))}", file=sys.stderr)
        status = exits.FAILED
    except BrokenPipeError:
        # The reader of our output, such as head, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = exits.OK
    except OSError as error:
        if arguments.command == "run":
            raise  # of the supervisor's own, the journal shows more than a line
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # it may be the output that is full
        hint = _hint(was_root) if isinstance(error, PermissionError) else ""
        where = error.filename or (arguments.command if hint else "output")
        print(f"sensor-node-ctl: {where}: {error.strerror}{hint}", file=sys.stderr)
        status = exits.UNKNOWN if arguments.command == "status" else exits.FAILED
    except Exception as error:
        if arguments.command == "run" or sys.flags.dev_mode:
            raise
        said = visible(f"{type(error).__name__}: {error}")
        print(f"sensor-node-ctl: {said}; {CHANGED}", file=sys.stderr)
        status = exits.UNKNOWN if arguments.command == "status" else exits.FAILED
    sys.exit(status)


def _hint(was_root: bool) -> str:
    if not was_root or not os.geteuid():
        return "; try as root"
    from sensor_node.control.privileges import name_of

    name = name_of(os.geteuid())
    return f"; root has become {name}, who owns a part of the way: give it all of the node's files"


def _open_streams() -> None:
    """Some start a daemon with its streams closed: else our first files would be taken for them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _tell_systemd(error: ConfigError) -> None:
    """So that the reason is in `systemctl status` even where the journal is not kept."""
    from sensor_node.supervision.systemd import Notifier

    Notifier().send(f"STATUS={error}")


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as all else here does."""

    def error(self, message: str) -> NoReturn:
        self.exit(exits.USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _arguments() -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.command == "requeue":
        all_of_a_status = arguments.dead or arguments.in_doubt
        if bool(all_of_a_status) == bool(arguments.ids):
            parser.error("requeue: name message ids, or --dead, or --in-doubt")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sensor-node-ctl", description="Controls Sensor Node, a store-and-forward agent."
    )
    parser.add_argument("-c", metavar="FILE", dest="config", help="configuration file")
    parser.add_argument("--version", action="version", version=f"sensor-node {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    made = {
        name: commands.add_parser(name, help=text, description=text) for name, text in HELP.items()
    }
    for name in ("status", "messages", "show", "history"):
        made[name].add_argument("--json", action="store_true", help="for programs")
    made["check"].add_argument("--print", action="store_true", help="each option, and its file")
    statuses = [status.value for status in MessageStatus]
    made["messages"].add_argument("--status", choices=statuses, help="only these")
    made["messages"].add_argument("--since", metavar="D", type=_seconds, help="such as 10m, 24h")
    made["messages"].add_argument("--limit", metavar="N", type=_count, default=20)
    made["show"].add_argument("id", metavar="ID")
    made["history"].add_argument("--since", metavar="D", type=_seconds, default=_seconds("7d"))
    made["requeue"].add_argument("ids", metavar="ID", nargs="*")
    made["requeue"].add_argument("--dead", action="store_true", help="all that are DEAD")
    made["requeue"].add_argument("--in-doubt", action="store_true", help="all that are IN_DOUBT")
    made["salvage"].add_argument("file", metavar="FILE", type=Path, help="the old database")
    made["sink"].add_argument("--host", default="127.0.0.1")
    made["sink"].add_argument("--port", type=int, default=8470, help="0: any free one")
    made["sink"].add_argument("--db", type=Path, default=Path("sink.db"), help="its own database")
    return parser


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: want a duration such as 10m, 24h, 7d"
        ) from None


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: want a whole number above 0")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    """Each command imports only what it needs: `status` is asked often, on small machines."""
    from sensor_node.control import in_force, privileges

    if arguments.command == "sink":
        from sensor_node.sink.server import serve

        privileges.drop(arguments.db)
        return serve(arguments.host, arguments.port, arguments.db)
    file = find_config(arguments.config)
    was_root = not os.geteuid()
    privileges.drop(privileges.way_to(file))
    if (
        arguments.command in ("start", "stop", "restart", "reload")
        and (done := _by_systemd(arguments.command, file)) is not None
    ):
        return done
    if arguments.command in ("start", "restart", "reload", "run", "check"):
        config = load_config(file)
        by_hand = arguments.command in ("start", "restart")
        if by_hand or any(sensor.source.needs_pidfd for sensor in config.sensors):
            insist_on_pidfd()
    else:
        privileges.drop(*privileges.of_file(file))
        config = in_force.configuration(file)
    if arguments.command == "check":
        from sensor_node.control import check

        return check.check(config, with_values=arguments.print)
    privileges.drop(*privileges.of_config(config))
    if arguments.command == "run" and was_root and os.geteuid():
        privileges.leave_terminal()
        privileges.begin_anew()
    if arguments.command in ("start", "stop", "restart", "reload", "run"):
        return _lifecycle(arguments.command, config)
    if arguments.command == "status":
        return _status(config, as_json=arguments.json)
    if arguments.command in ("requeue", "salvage"):
        return _change(arguments, config)
    return _inspect(arguments, config)


def _by_systemd(command: str, file: Path) -> int | None:
    """None where no systemd looks after this appliance."""
    from sensor_node.control import systemctl

    if command == "reload" and (pid := systemctl.main_pid()):
        from sensor_node.control import lifecycle

        return lifecycle.reload_process(load_config(file), pid)
    unit = systemctl.unit_of(file)
    if unit is None:
        return None
    if command == "stop":
        return systemctl.stop(file, unit)
    verbs = {
        "start": systemctl.start,
        "restart": systemctl.restart,
        "reload": systemctl.reload,
    }
    return verbs[command](load_config(file), unit)


def _lifecycle(command: str, config: Config) -> int:
    if command == "run":
        from sensor_node.supervision import appliance

        return appliance.run(config)
    from sensor_node.control import lifecycle

    commands = {
        "start": lifecycle.start,
        "stop": lifecycle.stop,
        "restart": lifecycle.restart,
        "reload": lifecycle.reload,
    }
    return commands[command](config)


def _status(config: Config, *, as_json: bool) -> int:
    from sensor_node.control import status_report, status_text

    found = status_report.take(config, SystemClock().now())
    if as_json:
        print(json.dumps(found))
    else:
        print(status_text.render(found, colour=sys.stdout.isatty()))
    if found["state"] == "dead":
        return exits.DEAD_BUT_PID_FILE
    if found["state"] == "unknown" or found["database_error"]:
        return exits.UNKNOWN
    return exits.STOPPED if found["state"] == "stopped" else exits.RUNNING


def _change(arguments: argparse.Namespace, config: Config) -> int:
    if arguments.command == "salvage":
        from sensor_node.control.salvage import salvage

        return salvage(config, arguments.file)
    from sensor_node.control import requeue

    now = SystemClock().now()
    statuses = ["DEAD"] * arguments.dead + ["IN_DOUBT"] * arguments.in_doubt
    if statuses:
        return requeue.requeue_all(config, statuses, now)
    return requeue.requeue_ids(config, arguments.ids, now)


def _inspect(arguments: argparse.Namespace, config: Config) -> int:
    from sensor_node.control import inspect

    if arguments.command == "audit":
        return inspect.audit(config)
    if arguments.command == "show":
        return inspect.show(config, arguments.id, as_json=arguments.json)
    since = EARLIEST
    if arguments.since is not None:
        since = max(EARLIEST, time.time() - arguments.since)
    if arguments.command == "history":
        return inspect.history(config, since, as_json=arguments.json)
    status, limit = arguments.status, arguments.limit
    return inspect.messages(config, status, since, limit, as_json=arguments.json)
