"""What is wrong, and what to do about it: rules over the values of a status snapshot."""

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
# May have a key in its query.
URL = ("sink", "url")
# Room is made in chunks: just after one, what is full looks a little less so.
FULL = 0.95


@dataclass(frozen=True, slots=True)
class Problem:
    what: str
    hint: str


def find(found: dict[str, Any]) -> list[Problem]:
    """The worst first."""
    return [
        *_of_processes(found),
        *(Problem(*complaint) for complaint in found["places"]),
        *_of_database(found),
        *_of_sensors(found),
        *_of_sink(found),
        *([Problem(*lag.complaint(found["lag"]))] if found["lag"] else []),
        *_of_isolated(found["isolated"]),
        *_of_stuck(found["stuck"]),
        *_of_messages(found),
    ]


def notes(config: Config) -> list[str]:
    """What is no problem, but had better be meant."""
    found = []
    simulated = [sensor.name for sensor in config.sensors if sensor.is_simulated]
    host = urlsplit(config.sink.url).hostname or ""
    if simulated and not _is_local(host):
        found.append(f"simulated readings ({', '.join(simulated)}) go to {host}")
    # A credential of systemd's is there only for the service.
    files = [file for file in config.sink.secret_files if "${" not in file]
    found += [f"{file}: there is no such file" for file in files if is_missing(Path(file))]
    found += _open_to_others(config)
    found += slips.find(config)
    if config.sink.at_most_once and config.sink.timeout > config.process.stop_timeout:
        clash = "[sink] timeout is longer than [process] stop_timeout"
        found.append(f"{clash}: with at-most-once, a stop can leave readings IN_DOUBT")
    return found


def _open_to_others(config: Config) -> list[str]:
    """Files whose modes give away a secret, or the node."""
    sink = config.sink
    secret = {sink.token_file, sink.password_file, sink.key_file or sink.cert_file}
    if urlsplit(sink.url).query:
        secret |= {row.file for row in config.effective if (row.section, row.option) == URL}
    found = [f"{file}: every user can read it: chmod o= {file}" for file in _with(S_IROTH, secret)]
    sources = {str(config.file)} | {row.file for row in config.effective}
    changed = _with(S_IWOTH, secret | sources)
    return found + [f"{file}: every user can change it: chmod o-w {file}" for file in changed]


def _with(mode: int, files: set[str]) -> list[str]:
    modes = {}
    for file in filter(None, files):
        with contextlib.suppress(OSError):
            modes[file] = Path(file).stat().st_mode
    return sorted(file for file, found in modes.items() if found & mode)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _of_processes(found: dict[str, Any]) -> list[Problem]:
    problems = []
    if found["state"] == "unknown":
        what = "whether it runs cannot be seen from here, but something holds its pid file"
        problems.append(Problem(what, "if it is in another container, ask there"))
    if found["state"] == "dead":
        problems.append(Problem("the supervisor died", "sensor-node-ctl start"))
    if found["running_version"] not in (None, found["version"]):
        what = f"version {found['running_version']} runs, {found['version']} is installed"
        problems.append(Problem(what, "sensor-node-ctl restart"))
    if found["reload_problem"]:
        what = f"the last reload was refused: {found['reload_problem']}"
        problems.append(Problem(what, "correct it; then sensor-node-ctl reload"))
    elif found["config_problem"]:
        hint = "correct it; until then the node goes by what it read before"
        problems.append(Problem(found["config_problem"], hint))
    for process in found["processes"]:
        name = process["name"]
        if process["state"] == "BACKOFF" or process["keeps_dying"]:
            hint = "it is started again by itself; the log says why it ends"
            problems.append(Problem(f"{name} has died {process['restarts']} times", hint))
    troubled: dict[str, list[dict[str, Any]]] = {}
    for process in found["processes"]:
        if process["trouble"] and process["state"] != "BACKOFF":
            troubled.setdefault(process["trouble"], []).append(process)
    for trouble, processes in troubled.items():
        hint = _STORAGE_HINTS.get(trouble, "the log has the details")
        names = ", ".join(process["name"] for process in processes)
        lasted = span(max(process["trouble_seconds"] for process in processes))
        what = f"the database cannot be used: {trouble} ({names})"
        if trouble == LOCKED:
            who = _holders(found, writes=True) or "a program that this process cannot see"
            what += f", for {lasted}: by {who}"
        problems.append(Problem(what, hint))
    return problems


def _holders(found: dict[str, Any], *, writes: bool) -> str:
    """Other programs in a transaction, such as: sqlite3 (pid 1234)."""
    others = [one for one in found["holders"] if one["writes"] or not writes]
    return ", ".join(f"{one['name']} (pid {one['pid']})" for one in others)


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


def _of_database(found: dict[str, Any]) -> list[Problem]:
    problems = [
        Problem(
            f"a damaged database was moved aside: {file}",
            f"sensor-node-ctl salvage {file}; then remove it and its -wal",
        )
        for file in found["quarantined"]
    ]
    if found["database_error"]:
        return [_unreadable(found), *problems]
    storage, counts = found["storage"], found["counts"]
    if not storage:
        return problems
    if storage["warning"]:
        problems.append(Problem(storage["warning"], "move [storage] path to a disk"))
    trouble, log = storage["trouble"], found["state"] == "running" and storage["log_held"]
    if log:
        problems.append(_of_log(found, log))
    # A held log takes what the disk has.
    if not trouble and not (log and storage["limited_by"] == "min_free"):
        problems += _of_room(storage, counts, found["dropping"])
    if trouble and all(process["trouble"] != trouble for process in found["processes"]):
        what = f"{trouble}, where the database is: {storage['path']}"
        problems.append(Problem(what, _STORAGE_HINTS[trouble]))
    return problems


def _of_log(found: dict[str, Any], log: dict[str, Any]) -> Problem:
    """By whom, as seen now; else as the housekeeper saw it, which may not see other users'."""
    who = _holders(found, writes=False) or log["by"]
    size = amount(found["storage"]["wal_bytes"])
    what = f"{who} has held a read transaction since {log['since']} or before "
    what += f"({span(log['seconds'])}): the log has grown to {size}"
    hint = "end that program, or its transaction"
    if log["tight"]:
        return Problem(f"{what}, the disk has no more, and new readings are not stored", hint)
    return Problem(what, f"{hint}, before the disk has no more room for the log")


def _of_room(
    storage: dict[str, Any], counts: dict[str, int], dropping: list[dict[str, Any]]
) -> list[Problem]:
    at_stake, brim = _at_stake(storage["used_bytes"], counts), storage["limit_bytes"]
    drops_oldest = storage["when_full"] == "drop-oldest"
    if drops_oldest:
        brim -= storage["spare_bytes"]
    # Too many at once are dropped even where the oldest, or delivered ones, give way.
    is_dropping = any(drop["reason"] == NO_ROOM for drop in dropping)
    if at_stake < NEARLY_FULL * brim and not is_dropping:
        return []
    what = "nearly full"
    if is_dropping or (at_stake >= brim and not drops_oldest):
        what = "full, new readings are not stored"
    elif drops_oldest and at_stake >= FULL * brim:
        what = "full, the oldest readings give way"
    sizes = f"{amount(storage['used_bytes'])} of {amount(storage['limit_bytes'])}"
    hint = "free disk space, or lower [storage] min_free"
    if storage["limited_by"] == "max_size":
        hint = "repair the sink, or raise [storage] max_size"
    return [Problem(f"the database is {what}: {sizes}", hint)]


def _at_stake(used: float, counts: dict[str, int]) -> float:
    """Bytes without those of delivered readings, which make room when it is needed."""
    delivered = counts["sent"] - counts["purged"]
    rows = counts["captured"] - counts["purged"] - counts["evicted"]
    return used * (rows - delivered) / rows if rows else used


def _unreadable(found: dict[str, Any]) -> Problem:
    """The error names its hint after a semicolon, or begins with a reason that has one."""
    error = found["database_error"]
    what, semicolon, hint = error.rpartition("; ")
    if semicolon:
        return Problem(what, hint)
    who = _holders(found, writes=True)
    what = f"{error}: by {who}" if who else error
    return Problem(what, _STORAGE_HINTS.get(error.partition(":")[0], "see the log"))


def _of_sensors(found: dict[str, Any]) -> list[Problem]:
    """How they are, and readings that get lost now.

    What the database does to readings is said with the database.
    """
    if found["state"] != "running":
        return []
    problems = [Problem(*line) for line in sensors.complaints(found["sensors"])]
    told = sensors.reasons_told(found["sensors"])
    is_log_told = found["storage"] and found["storage"]["log_held"]
    for drop in found["dropping"]:
        reason = drop["reason"]
        lost = f"{counted(drop['readings'], 'reading')} lost in {span(drop['seconds'])}"
        hints = [hint for ending, hint in _LOSSES if reason.endswith(ending)]
        if hints and reason not in told and not (is_log_told and reason == LOG_HELD):
            problems.append(Problem(f"{reason}: {lost}", hints[0]))
    return problems


# By what the reason for a loss ends with, after the sensor's name.
_BY_HAND = "the log says why; try it by hand, as the user that the node runs as"
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


def _of_sink(found: dict[str, Any]) -> list[Problem]:
    sink = found["sink"]
    if not sink or sink["state"] == "UP":
        return []
    wait = f"it is tried again in {span(sink['next_probe_seconds'])}"
    if found["state"] in ("stopped", "dead"):
        wait = "it is tried again after sensor-node-ctl start"
    return [Problem(f"the sink is DOWN: {sink['reason']}", sink["hint"] or wait)]


def _of_isolated(isolated: list[dict[str, Any]]) -> list[Problem]:
    """Of those of which something waits: the others may be gone from the configuration."""
    return [
        Problem(
            f"sensor {one['sensor']} is set apart, as the sink fails with its readings alone "
            f"({one['reason']}): {counted(one['readings'], 'reading')} waiting",
            f"ask who runs the sink; it is tried again in {span(one['next_probe_seconds'])}",
        )
        for one in isolated
        if one["readings"]
    ]


def _of_stuck(stuck: dict[str, Any] | None) -> list[Problem]:
    if not stuck:
        return []
    what = f"{counted(stuck['messages'], 'message')} failed while the sink takes others"
    hint = "sensor-node-ctl messages --status FAILED; ask who runs the sink or a filter before it"
    return [Problem(f"{what}: {stuck['reason']}", hint)]


def _of_messages(found: dict[str, Any]) -> list[Problem]:
    counts = found["counts"] or {"dead": 0, "in_doubt": 0}
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
