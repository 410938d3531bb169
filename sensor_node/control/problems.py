"""What is wrong, and what to do about it: rules over the values of a status report."""

import contextlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from stat import S_IROTH, S_IWOTH
from typing import Any
from urllib.parse import urlsplit

from sensor_node.config.loader import Config
from sensor_node.control import lag, sensors, slips
from sensor_node.control.times import amount, counted, span
from sensor_node.core.errors import LOCKED
from sensor_node.storage.queue.room import LOG_HELD, NO_ROOM
from sensor_node.system.files import is_missing

NEARLY_FULL = 0.9
# The query of this option may have a key in it.
URL = ("sink", "url")
# Room is made in chunks. Just after a chunk was deleted, a full database looks a little less full.
FULL = 0.95


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of `status`, and one object of its JSON."""

    what: str  # what is wrong
    hint: str  # what to do about it


def find(report: dict[str, Any]) -> list[Problem]:
    """The problems that a status report shows, the worst first."""
    return [
        *_process_problems(report),
        *(Problem(*complaint) for complaint in report["places"]),
        *_database_problems(report),
        *_sensor_problems(report),
        *_sink_problems(report),
        *([Problem(*lag.complaint(report["lag"]))] if report["lag"] else []),
        *_isolation_problems(report["isolated"]),
        *_stuck_problems(report["stuck"]),
        *_message_problems(report),
    ]


def notes(config: Config) -> list[str]:
    """What is no mistake, but may not be meant: a line each."""
    lines = []
    simulated = [sensor.name for sensor in config.sensors if sensor.is_simulated]
    host = urlsplit(config.sink.url).hostname or ""
    if simulated and not _is_local(host):
        lines.append(f"simulated readings ({', '.join(simulated)}) go to {host}")
    # Only the service sees the credentials that systemd gives it.
    files = [file for file in config.sink.secret_files if "${" not in file]
    lines += [f"{file}: there is no such file" for file in files if is_missing(Path(file))]
    lines += _open_to_others(config)
    lines += slips.find(config)
    if config.sink.at_most_once and config.sink.timeout > config.process.stop_timeout:
        clash = "[sink] timeout is longer than [process] stop_timeout"
        lines.append(f"{clash}: with at-most-once, a stop can leave readings IN_DOUBT")
    return lines


def _open_to_others(config: Config) -> list[str]:
    """A line for each file that every user can read although it is secret, or can change."""
    sink = config.sink
    secret = {sink.token_file, sink.password_file, sink.key_file or sink.cert_file}
    if urlsplit(sink.url).query:
        secret |= {row.file for row in config.effective if (row.section, row.option) == URL}
    sources = {str(config.file)} | {row.file for row in config.effective}
    readable, changeable = _with_mode(S_IROTH, secret), _with_mode(S_IWOTH, secret | sources)
    return [
        *(f"{file}: every user can read it: chmod o= {file}" for file in readable),
        *(f"{file}: every user can change it: chmod o-w {file}" for file in changeable),
    ]


def _with_mode(bits: int, files: set[str]) -> list[str]:
    """The files that have one of these mode bits, sorted."""
    modes = {}
    for file in filter(None, files):
        with contextlib.suppress(OSError):
            modes[file] = Path(file).stat().st_mode
    return sorted(file for file, mode in modes.items() if mode & bits)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _process_problems(report: dict[str, Any]) -> list[Problem]:
    problems = []
    if report["state"] == "unknown":
        description = "whether it runs cannot be seen from here, but something holds its pid file"
        problems.append(Problem(description, "if it is in another container, ask there"))
    if report["state"] == "dead":
        problems.append(Problem("the supervisor died", "sensor-node-ctl start"))
    if report["running_version"] not in (None, report["version"]):
        description = f"version {report['running_version']} runs, {report['version']} is installed"
        problems.append(Problem(description, "sensor-node-ctl restart"))
    if report["reload_problem"]:
        description = f"the last reload was refused: {report['reload_problem']}"
        problems.append(Problem(description, "correct it; then sensor-node-ctl reload"))
    elif report["config_problem"]:
        hint = "correct it; until then the node goes by what it read before"
        problems.append(Problem(report["config_problem"], hint))
    for process in report["processes"]:
        name = process["name"]
        if process["state"] == "BACKOFF" or process["keeps_dying"]:
            hint = "it is started again by itself; the log says why it ends"
            problems.append(Problem(f"{name} has died {process['restarts']} times", hint))
    troubled: dict[str, list[dict[str, Any]]] = {}
    for process in report["processes"]:
        if process["trouble"] and process["state"] != "BACKOFF":
            troubled.setdefault(process["trouble"], []).append(process)
    for trouble, processes in troubled.items():
        hint = _STORAGE_HINTS.get(trouble, "the log has the details")
        names = ", ".join(process["name"] for process in processes)
        lasted = span(max(process["trouble_seconds"] for process in processes))
        description = f"the database cannot be used: {trouble} ({names})"
        if trouble == LOCKED:
            holders = _holders(report, writes=True) or "a program that this process cannot see"
            description += f", for {lasted}: by {holders}"
        problems.append(Problem(description, hint))
    return problems


def _holders(report: dict[str, Any], *, writes: bool) -> str:
    """Other programs in a transaction, such as: sqlite3 (pid 1234).

    `writes`: only those whose transaction writes.
    """
    holders = [holder for holder in report["holders"] if holder["writes"] or not writes]
    return ", ".join(f"{holder['name']} (pid {holder['pid']})" for holder in holders)


_STORAGE_HINTS = {
    "disk full": "free some space; readings wait in memory for about a minute",
    "quota exceeded": "raise the quota of the node's user, or lower [storage] max_size; "
    "readings wait in memory for about a minute",
    "file size limit": "raise LimitFSIZE= of the service, or ulimit -f; "
    "readings wait in memory for about a minute",
    "read-only": "remount the file system for writing; the card may be dying",
    "I/O error": "look at the kernel's log; the card may be dying",
    "no permission": "try as root, or look at the file's owner and mode",
    LOCKED: "end that program's transaction, such as a sqlite3 shell's; readings wait in memory "
    "for about a minute",
    "cannot be opened": "look at the directory, its owner and mode, and at the limit on open files",
    "damaged": "it is moved aside by itself, but not twice in minutes; the card may be dying",
    "replaced": "wait a second; it begins with a fresh database",
}


def _database_problems(report: dict[str, Any]) -> list[Problem]:
    problems = [
        Problem(
            f"a damaged database was moved aside: {file}",
            f"sensor-node-ctl salvage {file}; then remove it and its -wal",
        )
        for file in report["quarantined"]
    ]
    if report["database_error"]:
        return [_unreadable_database(report), *problems]
    storage, counts = report["storage"], report["counts"]
    if not storage:
        return problems
    if storage["warning"]:
        problems.append(Problem(storage["warning"], "move [storage] path to a disk"))
    trouble, log = storage["trouble"], report["state"] == "running" and storage["log_held"]
    if log:
        problems.append(_log_problem(report, log))
    # A log that a program keeps from being emptied fills the disk: one problem, not two.
    if not trouble and not (log and storage["limited_by"] == "min_free"):
        problems += _room_problems(storage, counts, report["dropping"])
    if trouble and all(process["trouble"] != trouble for process in report["processes"]):
        description = f"{trouble}, where the database is: {storage['path']}"
        problems.append(Problem(description, _STORAGE_HINTS[trouble]))
    return problems


def _log_problem(report: dict[str, Any], log: dict[str, Any]) -> Problem:
    """Names the programs seen now, else those that the housekeeper saw.

    The housekeeper may not see the programs of other users.
    """
    holders = _holders(report, writes=False) or log["by"]
    size = amount(report["storage"]["wal_bytes"])
    description = f"{holders} has held a read transaction since {log['since']} or before "
    description += f"({span(log['seconds'])}): the log has grown to {size}"
    hint = "end that program, or its transaction"
    if log["tight"]:
        return Problem(
            f"{description}, the disk has no more, and new readings are not stored", hint
        )
    return Problem(description, f"{hint}, before the disk has no more room for the log")


def _room_problems(
    storage: dict[str, Any], counts: dict[str, int], dropping: list[dict[str, Any]]
) -> list[Problem]:
    undelivered_bytes, full_bytes = (
        _undelivered_bytes(storage["used_bytes"], counts),
        storage["limit_bytes"],
    )
    drops_oldest = storage["when_full"] == "drop-oldest"
    if drops_oldest:
        full_bytes -= storage["spare_bytes"]
    # Readings that come too fast are dropped even where delivered or the oldest ones give way.
    is_dropping = any(drop["reason"] == NO_ROOM for drop in dropping)
    if undelivered_bytes < NEARLY_FULL * full_bytes and not is_dropping:
        return []
    description = "nearly full"
    if is_dropping or (undelivered_bytes >= full_bytes and not drops_oldest):
        description = "full, new readings are not stored"
    elif drops_oldest and undelivered_bytes >= FULL * full_bytes:
        description = "full, the oldest readings give way"
    sizes = f"{amount(storage['used_bytes'])} of {amount(storage['limit_bytes'])}"
    hint = "free disk space, or lower [storage] min_free"
    if storage["limited_by"] == "max_size":
        hint = "repair the sink, or raise [storage] max_size"
    return [Problem(f"the database is {description}: {sizes}", hint)]


def _undelivered_bytes(used: float, counts: dict[str, int]) -> float:
    """Used bytes less those of delivered readings, which are deleted when room is needed."""
    delivered = counts["sent"] - counts["purged"]
    rows = counts["captured"] - counts["purged"] - counts["evicted"]
    return used * (rows - delivered) / rows if rows else used


def _unreadable_database(report: dict[str, Any]) -> Problem:
    """The error has its hint after a semicolon, or begins with a reason that has a hint here."""
    error = report["database_error"]
    description, semicolon, hint = error.rpartition("; ")
    if semicolon:
        return Problem(description, hint)
    holders = _holders(report, writes=True)
    description = f"{error}: by {holders}" if holders else error
    return Problem(description, _STORAGE_HINTS.get(error.partition(":")[0], "see the log"))


def _sensor_problems(report: dict[str, Any]) -> list[Problem]:
    """Sensors that fail or are silent, and readings that get lost now.

    Losses that the database causes are among the problems of the database.
    """
    if report["state"] != "running":
        return []
    problems = [Problem(*complaint) for complaint in sensors.complaints(report["sensors"])]
    reported_reasons = sensors.reported_reasons(report["sensors"])
    is_log_reported = report["storage"] and report["storage"]["log_held"]
    for drop in report["dropping"]:
        reason = drop["reason"]
        lost = f"{counted(drop['readings'], 'reading')} lost in {span(drop['seconds'])}"
        hints = [hint for ending, hint in _LOSSES if reason.endswith(ending)]
        if (
            hints
            and reason not in reported_reasons
            and not (is_log_reported and reason == LOG_HELD)
        ):
            problems.append(Problem(f"{reason}: {lost}", hints[0]))
    return problems


_BY_HAND = "the log says why; try it by hand, as the user that the node runs as"
# The hint for a loss, by how its reason ends: it may begin with the sensor's name.
_LOSSES = (
    (
        " late",
        "it takes longer than its sensor's period, or the machine cannot keep up; "
        "lower the rates of the sensors",
    ),
    (" failed", _BY_HAND),
    (" gave nan or infinity", _BY_HAND),
    ("buffer full", "the disk cannot keep up; lower the rates of the sensors"),
    (LOG_HELD, "end that program, or its transaction; a backup or a sqlite3 shell, perhaps"),
)


def _sink_problems(report: dict[str, Any]) -> list[Problem]:
    sink = report["sink"]
    if not sink or sink["state"] == "UP":
        return []
    wait = f"it is tried again in {span(sink['next_probe_seconds'])}"
    if report["state"] in ("stopped", "dead"):
        wait = "it is tried again after sensor-node-ctl start"
    return [Problem(f"the sink is DOWN: {sink['reason']}", sink["hint"] or wait)]


def _isolation_problems(isolated: list[dict[str, Any]]) -> list[Problem]:
    """Sensors that are set apart and have readings waiting.

    Others may be gone from the configuration.
    """
    return [
        Problem(
            f"sensor {sensor['sensor']} is set apart, as the sink fails with its readings alone "
            f"({sensor['reason']}): {counted(sensor['readings'], 'reading')} waiting",
            f"ask who runs the sink; it is tried again in {span(sensor['next_probe_seconds'])}",
        )
        for sensor in isolated
        if sensor["readings"]
    ]


def _stuck_problems(stuck: dict[str, Any] | None) -> list[Problem]:
    if not stuck:
        return []
    description = f"{counted(stuck['messages'], 'message')} failed while the sink takes others"
    hint = "sensor-node-ctl messages --status FAILED; ask who runs the sink or a filter before it"
    return [Problem(f"{description}: {stuck['reason']}", hint)]


def _message_problems(report: dict[str, Any]) -> list[Problem]:
    counts = report["counts"] or {"dead": 0, "in_doubt": 0}
    problems = []
    if counts["dead"]:
        hint = "sensor-node-ctl messages --status DEAD; then requeue --dead"
        problems.append(
            Problem(f"the sink refuses {counted(counts['dead'], 'message')} (DEAD)", hint)
        )
    if counts["in_doubt"]:
        hint = "find out whether the sink has them; if not: sensor-node-ctl requeue --in-doubt"
        problems.append(
            Problem(f"the fate of {counted(counts['in_doubt'], 'message')} is unknown", hint)
        )
    return problems
