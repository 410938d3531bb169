"""messages, show, history and audit: they look into the database and change nothing."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict

from sensor_node.config.loader import Config
from sensor_node.control import exits
from sensor_node.control.times import counted, local, span, utc, utc_us
from sensor_node.core.errors import SensorNodeError
from sensor_node.core.model import MessageStatus
from sensor_node.storage.engine.connection import Connection, read_transaction
from sensor_node.storage.journal import events
from sensor_node.storage.journal.events import EventRow
from sensor_node.storage.queue import ledger, lookup, streams
from sensor_node.storage.queue.lookup import MessageRow
from sensor_node.system.text import visible

EARLIEST = -9e12  # wall seconds, which SQLite keeps as microseconds


@contextlib.contextmanager
def open_for_reading(config: Config) -> Iterator[Connection]:
    """One read transaction on the database. Raises SensorNodeError if there is none yet."""
    path = config.storage.path
    if not path.exists():
        raise SensorNodeError(f"{path}: there is no database yet; sensor-node-ctl start makes it")
    with read_transaction(path) as connection:
        yield connection


def messages(
    config: Config, *, status: str | None, since: float | None, limit: int, as_json: bool
) -> int:
    """The newest messages, of one status or any, captured at most `since` seconds ago."""
    with open_for_reading(config) as connection:
        wanted = MessageStatus(status) if status else None
        earliest = EARLIEST if since is None else _seconds_ago(since)
        rows = lookup.messages(connection, wanted, int(earliest * 1e6), limit)
    if as_json:
        print(json.dumps([_message_json(row) for row in rows], indent=1))
        return exits.OK
    for row in reversed(rows):
        error = f"  {row.last_error}" if row.last_error and row.status != "SENT" else ""
        at = local(row.timestamp_us / 1e6)
        reading = f"{row.name} {row.value!r}{error}"
        print(f"{row.wire_id}  {at}  {row.status:<8} {visible(reading)}")
    if not rows:
        print("no such messages")
    return exits.OK


def show(config: Config, *, id_text: str, as_json: bool) -> int:
    """One message by its id on the wire, or by its local number."""
    with open_for_reading(config) as connection:
        message_id = streams.local_id(connection, id_text)
        row = lookup.message(connection, message_id) if message_id else None
        if row is None:
            raise SensorNodeError(f"{id_text}: {_why_absent(connection, id_text, message_id)}")
    if as_json:
        print(json.dumps(_message_json(row), indent=1))
        return exits.OK
    for key, value in _message_json(row).items():
        if value is not None:
            print(f"{key:<15} {visible(str(value))}")
    return exits.OK


# Kinds of events whose first and last are message ids.
ID_RANGES = ("evicted", "requeued", "salvaged")
_GONE = {
    "PURGED": "was delivered, and deleted after keep_sent",
    "EVICTED": "was given up for want of room or for its age; see sensor-node-ctl history",
}


def _why_absent(connection: Connection, text: str, message_id: int | None) -> str:
    """What became of the message.

    A stream is forgotten with its last message, but what became of a number is not.
    """
    absent, parsed = "there is no such message", streams.parse(text)
    if message_id:
        return _GONE.get(lookup.discarded_as(connection, message_id) or "", absent)
    status = lookup.discarded_as(connection, parsed[1]) if parsed else None
    return f"{absent}; number {parsed[1]} {_GONE[status]}" if parsed and status in _GONE else absent


def history(config: Config, *, since: float, as_json: bool) -> int:
    """Events of the last `since` seconds, oldest first."""
    with open_for_reading(config) as connection:
        rows = events.since(connection, _seconds_ago(since))
    if as_json:
        print(json.dumps([_event_json(row) for row in rows], indent=1))
        return exits.OK
    for row in rows:
        print(f"{local(row.at)}  {row.kind:<16} {visible(_event_text(row))}")
    if not rows:
        print("nothing happened")
    return exits.OK


def audit(config: Config) -> int:
    """P3: recount all rows in one snapshot and compare them with the counters."""
    faults = 0
    with open_for_reading(config) as connection:
        for line in ledger.audit(connection):
            print(visible(line))
            faults += 1
        counts = ledger.counts(connection)
    print(
        f"captured {counts.captured} = pending {counts.pending} + in flight {counts.in_flight}"
        f" + failed {counts.failed} + sent {counts.sent} + dead {counts.dead}"
        f" + in doubt {counts.in_doubt} + evicted {counts.evicted}; dropped {counts.dropped}"
    )
    print(
        "audit: every reading is accounted for"
        if not faults
        else f"audit: {faults} things are wrong"
    )
    return exits.FAILED if faults else exits.OK


def _seconds_ago(seconds: float) -> float:
    """Wall seconds."""
    return max(EARLIEST, time.time() - seconds)


def _message_json(row: MessageRow) -> dict[str, object]:
    return {
        "id": row.wire_id,
        "local_id": row.id,
        "status": row.status.value,
        "name": row.name,
        "value": row.value,
        "timestamp": utc_us(row.timestamp_us),
        "captured_at": utc_us(row.captured_us),
        "attempts": row.attempts,
        "next_attempt_at": utc(row.next_attempt_at),
        "last_error": row.last_error,
    }


def _event_json(row: EventRow) -> dict[str, object]:
    return asdict(row) | {"at": utc(row.at), "until": utc(row.until)}


def _event_text(row: EventRow) -> str:
    """An event for people.

    The range of dropped readings is one of times, other ranges are of ids. `until` differs from
    `at` in an event that happened several times.
    """
    parts = [row.detail] if row.detail else []
    if row.kind in ("dropped", "evicted", "requeued", "reclaimed", "salvaged"):
        parts.append(counted(row.n, "reading"))
    elif row.n > 1:
        parts.append(f"{row.n} times within {span(row.until - row.at)}")
        # The detail is that of the last one; the others may have had another.
        if row.kind not in events.SAME_GOES_ON:
            parts = [parts[-1], f"last: {row.detail}"]
    if row.kind == "dropped" and row.first is not None and row.last is not None:
        parts.append(f"between {local(row.first / 1e6)} and {local(row.last / 1e6)}")
    elif row.first is not None and row.last is not None and row.kind in ID_RANGES:
        among = "" if row.n == row.last - row.first + 1 else "among "
        parts.append(f"{among}ids {row.first} to {row.last}")
    elif row.kind == "reclaimed" and row.until > row.at:
        parts.append(f"until {local(row.until)}")
    return ", ".join(parts)
