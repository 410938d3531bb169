"""The status report: everything that `status` shows, as the JSON of `status --json`."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from sensor_node import __version__
from sensor_node.config.loader import Config, SinkConfig
from sensor_node.control import directories, in_force, lag, problems, sensors
from sensor_node.control.times import utc
from sensor_node.core.clock import Moment
from sensor_node.core.errors import LOCKED, SensorNodeError
from sensor_node.core.isolation import Suspect
from sensor_node.core.model import Counts
from sensor_node.core.settlement import SinkRecord
from sensor_node.processes.owner import age_seconds
from sensor_node.storage.engine import holders, quarantine
from sensor_node.storage.engine.checkpoint import wal_bytes
from sensor_node.storage.engine.connection import Connection, read_transaction, sqlite_facts
from sensor_node.storage.engine.filesystem import complaint, is_read_only
from sensor_node.storage.journal import events, log_hold, runs, samples
from sensor_node.storage.queue import ledger, lookup, sink_row, suspects
from sensor_node.storage.queue.room import SizeLimits, Space, measure
from sensor_node.supervision.pidfile import is_elsewhere, pid_file, running_pid
from sensor_node.supervision.states import ChildReport, Outline, Report, read_outline, report_of
from sensor_node.system.files import real

# A rate is taken over at least this time.
LEAST_RATE_SECONDS = 1.0
# Readings whose last loss is no older than this are being dropped.
DROPPING_SECONDS = 30.0
# A process whose last death but one is no older than this keeps dying. A time that lies further
# ahead says nothing: the clock was set back.
DYING_SECONDS = 600.0
NO_RATES: dict[str, float | None] = {"captured": None, "delivered": None, "seconds": None}


def take(config: Config, now: Moment) -> dict[str, Any]:
    """The report of a node, running or not. Keys are only ever added: programs read them."""
    pid = running_pid(config.runtime_directory)
    supervisor = report_of(config.runtime_directory, pid)
    outline = read_outline(config.runtime_directory, pid)
    uptime = age_seconds(pid, now.boottime) if pid and outline else None
    state = "stopping" if supervisor and supervisor.stopping else _state(config, pid, outline)
    mistake, command = in_force.drift(config) if pid else ("", "")
    report: dict[str, Any] = {
        "node": config.node_id,
        "version": __version__,
        "running_version": outline.version if outline else None,
        "state": state,
        "since": None if uptime is None else utc(now.wall - uptime),
        "uptime_seconds": uptime,
        "config": str(config.file),
        "processes": [_process(child, now) for child in supervisor.processes] if supervisor else [],
        "reload_problem": supervisor.problem if supervisor else "",
        "config_problem": mistake,
        "config_changed": bool(command),
        "places": directories.complaints(config, pid) if pid else directories.in_the_way(config),
    }
    report |= _database(config, now)
    report["holders"] = _holders(config, supervisor, report)
    report["quarantined"] = [str(file) for file in quarantine.files(real(config.storage.path))]
    if pid is None and report["rates"]:
        report |= {"rates": NO_RATES, "drain_eta_seconds": None, "lag": None}
    report["sensors"] = sensors.judge(report.pop("sensor_rows"), config, report, pid, now)
    report["notes"] = problems.notes(config)
    if command:
        report["notes"].append(f"{config.file} or a drop-in has changed: sensor-node-ctl {command}")
    report["problems"] = [asdict(problem) for problem in problems.find(report)]
    return report


def buffered(config: Config) -> str:
    """One phrase about what is still to be delivered, for `stop`."""
    try:
        with read_transaction(config.storage.path) as connection:
            counts, in_order = ledger.counts(connection), runs.ended_in_order(connection)
    except SensorNodeError as error:
        return f"what is buffered is unknown: {error}"
    # A process that was killed during a request may have sent it.
    unsure = counts.in_flight if config.sink.at_most_once else 0
    parked = [(counts.dead, "DEAD"), (counts.in_doubt + unsure, "IN_DOUBT")]
    apart = " and ".join(f"{count} {status}" for count, status in parked if count)
    waiting = counts.undelivered - unsure
    if waiting == 1:
        phrase = "1 reading is buffered and goes out after the next start"
    elif waiting:
        phrase = f"{waiting} readings are buffered and go out after the next start"
    else:
        phrase = "everything captured is delivered"
    if apart:
        phrase += f", but for {apart}"
    return phrase if in_order else f"{phrase}; what was in memory may be lost: it ended by force"


def _state(config: Config, pid: int | None, outline: Outline | None) -> str:
    if pid is None:
        if is_elsewhere(config.runtime_directory):
            return "unknown"
        return "dead" if pid_file(config.runtime_directory).exists() else "stopped"
    return "running" if outline and outline.ready else "starting"


def _process(child: ChildReport, now: Moment) -> dict[str, Any]:
    rss, pid, state = None, child.pid, child.state
    try:
        process = psutil.Process(pid) if pid else None
        rss = process.memory_info().rss if process else None
        if process and process.status() == psutil.STATUS_ZOMBIE:
            pid, state = None, "DIED"
    except psutil.NoSuchProcess:
        # It has died since the supervisor's report, or the disk has no room for a newer report.
        pid, state = None, "DIED"
    except psutil.Error:
        rss = None
    return {
        "role": child.role,
        "name": child.name,
        "pid": pid,
        "state": state,
        "since": utc(child.since),
        "restarts": child.restarts,
        "keeps_dying": abs(now.wall - child.died_before) < DYING_SECONDS,
        "rss_bytes": rss,
        "trouble": child.trouble,
        "trouble_seconds": max(0.0, now.wall - child.trouble_since) if child.trouble else None,
    }


def _database(config: Config, now: Moment) -> dict[str, Any]:
    path = config.storage.path
    if not path.exists():
        return _without_database("")
    try:
        with read_transaction(path) as connection:
            return _read(connection, config, now)
    except SensorNodeError as error:
        return _without_database(str(error))


def _without_database(error: str) -> dict[str, Any]:
    keys = ("sink", "counts", "oldest_undelivered_seconds", "rates", "drain_eta_seconds", "storage")
    known: dict[str, Any] = {
        "stuck": None,
        "lag": None,
        "isolated": [],
        "dropping": [],
        "sensor_rows": None,
        "sqlite": sqlite_facts(),
        "database_error": error,
    }
    return {**dict.fromkeys(keys), **known}


def _read(connection: Connection, config: Config, now: Moment) -> dict[str, Any]:
    path = config.storage.path
    counts = ledger.counts(connection)
    sink = sink_row.read(connection)
    oldest = lookup.oldest_undelivered_us(connection)
    rates = _rates(connection, counts, sink, now)
    space = measure(connection, path, SizeLimits(config.storage.max_size, config.storage.min_free))
    return {
        "sink": {
            "url": config.sink.url,
            "state": sink.state.value,
            "since": utc(sink.since or None),
            "reason": sink.reason,
            "hint": sink.hint,
            "next_probe_at": None if sink.up else utc(sink.next_probe_at),
            "next_probe_seconds": None if sink.up else max(0.0, sink.next_probe_at - now.wall),
        },
        "counts": asdict(counts),
        "oldest_undelivered_seconds": None if oldest is None else max(0.0, now.wall - oldest / 1e6),
        "rates": rates,
        "drain_eta_seconds": _drain_eta(counts, rates, config.sink.max_rate),
        **_delivery(connection, config.sink, sink, rates, now),
        "dropping": [
            {"reason": event.detail, "readings": event.n, "seconds": now.wall - event.at}
            for event in events.since(connection, now.wall - DROPPING_SECONDS)
            if event.kind == "dropped" and event.at <= now.wall
        ],
        "sensor_rows": sensors.read(connection),
        "storage": {
            "path": str(path),
            "warning": complaint(path)[0],
            "trouble": _trouble(path, space),
            "database_bytes": space.file_bytes,
            "used_bytes": space.used,
            "wal_bytes": wal_bytes(path),
            "limit_bytes": space.limit,
            "limited_by": "max_size" if space.limit >= config.storage.max_size else "min_free",
            "spare_bytes": int(space.spare),
            "when_full": config.storage.when_full,
            "disk_free_bytes": space.disk_free,
            "log_held": _log_held(connection, space, now),
        },
        "sqlite": sqlite_facts(),
        "database_error": "",
    }


def _delivery(
    connection: Connection,
    config: SinkConfig,
    sink: SinkRecord,
    rates: dict[str, float | None],
    now: Moment,
) -> dict[str, Any]:
    """What slows delivery down while the sink is UP, if anything does."""
    oldest_us = lookup.oldest_pending_us(connection)
    requests = lookup.requests(connection, now.wall - lag.PATIENCE_SECONDS)
    return {
        "lag": lag.find(sink, config, rates, oldest_us, requests, now),
        "stuck": lookup.stuck(connection, sink.since) if sink.up else None,
        "isolated": [
            _isolated(connection, suspect, now) for suspect in suspects.isolated(connection)
        ],
    }


def _isolated(connection: Connection, suspect: Suspect, now: Moment) -> dict[str, Any]:
    return {
        "sensor": suspect.name,
        "since": utc(suspect.since),
        "reason": suspect.reason,
        "readings": suspects.count_waiting(connection, suspect.name),
        "next_probe_at": utc(suspect.next_probe_at),
        "next_probe_seconds": max(0.0, suspect.next_probe_at - now.wall),
    }


def _log_held(connection: Connection, space: Space, now: Moment) -> dict[str, Any] | None:
    """Of a program that keeps the log from being emptied; it holds only while the node runs."""
    hold = log_hold.standing(connection)
    if hold is None:
        return None
    seconds = max(0.0, now.wall - hold.since)
    return {"since": utc(hold.since), "seconds": seconds, "by": hold.by, "tight": space.tight}


def _holders(
    config: Config, supervisor: Report | None, report: dict[str, Any]
) -> list[dict[str, Any]]:
    """Other programs in a transaction, where one is in the way of the node."""
    troubles = [process["trouble"] for process in report["processes"]]
    is_locked = LOCKED in troubles or report["database_error"].startswith(LOCKED)
    if supervisor is None or not (
        is_locked or (report["storage"] and report["storage"]["log_held"])
    ):
        return []
    others = holders.find(real(config.storage.path), supervisor.pid)
    return [holder._asdict() for holder in others]


def _trouble(path: Path, space: Space) -> str:
    """Trouble of the disk, seen from here.

    The processes may be unable to report it: their report is usually on the same disk.
    """
    if is_read_only(path):
        return "read-only"
    return "disk full" if space.cramped else ""


def _rates(
    connection: Connection, counts: Counts, sink: SinkRecord, now: Moment
) -> dict[str, float | None]:
    """Readings a second over the last minute or so; null just after the start.

    `delivered` is over `seconds`, which is shorter if the sink has come UP within that minute: an
    outage does not count as slow delivery.
    """
    kept = samples.up_to(connection, now.boottime)
    if not kept or now.boottime - kept[0][0] < LEAST_RATE_SECONDS:
        return NO_RATES
    begun, captured, _ = kept[0]
    up_at = now.boottime - (now.wall - sink.since) if sink.up and sink.since <= now.wall else 0.0
    # Nothing was delivered between the last sample before the sink came UP and that moment.
    at, _, sent = max((sample for sample in kept if sample[0] <= up_at), default=kept[0])
    seconds = max(LEAST_RATE_SECONDS, now.boottime - max(at, up_at))
    return {
        "captured": round((counts.captured - captured) / (now.boottime - begun), 3),
        "delivered": round(max(0, counts.sent - sent) / seconds, 3),
        "seconds": round(seconds, 1),
    }


def _drain_eta(counts: Counts, rates: dict[str, float | None], max_rate: float) -> float | None:
    """Seconds until all is delivered at these rates; None if the backlog does not shrink."""
    if not counts.undelivered:
        return 0.0
    delivered = min(rates["delivered"] or 0.0, max_rate or math.inf)
    if counts.undelivered <= delivered * LEAST_RATE_SECONDS:
        # Less than a second of delivery is no backlog: it leaves although capture goes on.
        return round(counts.undelivered / delivered, 1)
    gain = delivered - (rates["captured"] or 0.0)
    return round(counts.undelivered / gain, 1) if gain > 0 else None
