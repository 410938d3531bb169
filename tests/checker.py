"""The verdict on a run: what the node's database says against what the sink has stored.

Shares no code with the product: it reads the database, the store of tests/sinks.py and the
sensors' rates, and works out by itself what must be true.
"""

import bisect
import contextlib
import datetime
import json
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

STREAMS = "SELECT first_id, name, wire_first, node FROM stream ORDER BY first_id"
ROWS = "SELECT id, status, name, value, timestamp_us FROM message ORDER BY id"
CAPTURED = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'message'"
STORED = """
SELECT id, node, name, value, timestamp, count(*), count(DISTINCT body) FROM received GROUP BY id
"""
REQUESTS = "SELECT no, headers, body FROM request WHERE complete ORDER BY no"
TAKEN = "SELECT count(*) FROM received WHERE request_no BETWEEN ? AND ? AND id != ?"
TOLD = "SELECT coalesce(sum(n), 0), count(*) FROM event WHERE kind = ?"
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
GONE = ("PURGED", "EVICTED")
UNDELIVERED = ("PENDING", "SENDING", "FAILED")
# The older events of a kind are forgotten when there are more than some 450.
MOST_OF_A_KIND = 400
SHOWN = 10


class Stream(NamedTuple):
    """From `first_id` on, local id n is NAME-(n - first_id + wire_first) on the wire."""

    first_id: int
    name: str
    wire_first: int
    node: str


# A stream is forgotten with its last message.
UNKNOWN = Stream(0, "unknown", 0, "")


class Row(NamedTuple):
    """A reading as the node has it."""

    status: str
    name: str
    value: float
    timestamp_us: int

    @property
    def content(self) -> tuple[str, str, str]:
        """The value is told apart from all others, also 0.0 from -0.0."""
        moment = EPOCH + datetime.timedelta(microseconds=self.timestamp_us)
        return self.name, self.value.hex(), f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"


class Stored(NamedTuple):
    """A reading as the sink has it: one copy, how many there are, how many texts differ."""

    node: str
    name: str
    value: float
    timestamp: str
    copies: int
    texts: int

    @property
    def content(self) -> tuple[str, str, str]:
        return self.name, float(self.value).hex(), self.timestamp


class BatchRange(NamedTuple):
    first: int
    last: int
    status: str


@dataclass
class Verdict:
    """Counts of messages; `lost`, `stored_twice` and `dead_unjustly` are wire ids.

    `lost`: the node counts it as delivered and the sink has it not, or it is DEAD for no good
    reason. `stored_twice`: the sink got more than one copy (one that keeps ids stores one).
    `wrong`: every other promise that does not hold, a line each.
    """

    captured: int = 0
    stored: int = 0
    undelivered: int = 0
    dead: int = 0
    in_doubt: int = 0
    evicted: int = 0
    dropped: int = 0
    lost: set[str] = field(default_factory=set)
    stored_twice: set[str] = field(default_factory=set)
    dead_unjustly: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def assert_good(self) -> None:
        """Nothing lost, nothing altered, and the ledger adds up."""
        assert not (self.lost or self.wrong), str(self)

    def __str__(self) -> str:
        lines = [
            f"captured {self.captured}, stored {self.stored}, lost {len(self.lost)},"
            f" stored twice {len(self.stored_twice)}, undelivered {self.undelivered},"
            f" DEAD {self.dead}, IN_DOUBT {self.in_doubt}, evicted {self.evicted},"
            f" dropped {self.dropped}"
        ]
        for what, ids in (("lost", self.lost), ("DEAD unjustly", self.dead_unjustly)):
            lines += [f"{what}: {one}" for one in sorted(ids)[:SHOWN]]
        return "\n".join([*lines, *self.wrong[:SHOWN]])


def judge(database: Path, sink: Path, *, earlier: frozenset[str] = frozenset()) -> Verdict:
    """Compare the two, neither being written to meanwhile.

    `earlier`: names of streams of which the sink may have messages that this database never had.
    """
    verdict = Verdict()
    with _reading(database) as node, _reading(sink) as store:
        batch_ranges = _check_ledger(node, verdict)
        _check_events(node, verdict)
        _compare(node, store, batch_ranges, verdict, earlier)
    return verdict


def _check_ledger(node: sqlite3.Connection, verdict: Verdict) -> list[BatchRange]:
    """Batch ranges lie side by side from 1 on, and every count is what the rows say."""
    wrong = verdict.wrong
    wrong += [f"integrity: {row[0]}" for row in node.execute("PRAGMA integrity_check(9)")]
    if wrong == ["integrity: ok"]:
        wrong.clear()
    (verdict.captured,) = node.execute(CAPTURED).fetchone()
    (verdict.dropped,) = node.execute("SELECT coalesce(sum(n), 0) FROM dropped").fetchone()
    batch_ranges = [
        BatchRange(*row) for row in node.execute("SELECT first_id, last_id, status FROM batch")
    ]
    batch_ranges.sort()
    end = 0
    lengths: Counter[str] = Counter()
    for batch_range in batch_ranges:
        if batch_range.first != end + 1:
            wrong.append(f"{batch_range} does not begin at {end + 1}")
        lengths[batch_range.status] += batch_range.last - batch_range.first + 1
        end = batch_range.last
    tally = {status: n for status, n in node.execute("SELECT status, n FROM tally") if n}
    if tally != lengths:
        wrong.append(f"tallies say {tally}, batch ranges {dict(lengths)}")
    if verdict.captured > end:
        batch_ranges.append(BatchRange(end + 1, verdict.captured, "PENDING"))
        lengths["PENDING"] += verdict.captured - end
    if sum(lengths.values()) != verdict.captured:
        wrong.append(f"{dict(lengths)} are not the {verdict.captured} captured")
    verdict.undelivered = sum(lengths[status] for status in UNDELIVERED)
    verdict.dead, verdict.in_doubt = lengths["DEAD"], lengths["IN_DOUBT"]
    verdict.evicted = lengths["EVICTED"]
    return batch_ranges


def _check_events(node: sqlite3.Connection, verdict: Verdict) -> None:
    """What was given up is in the history, with how many they are."""
    for kind, n in (("evicted", verdict.evicted), ("dropped", verdict.dropped)):
        told, events = node.execute(TOLD, [kind]).fetchone()
        if told != n and events < MOST_OF_A_KIND:
            verdict.wrong.append(f"history tells of {told} {kind}, counted are {n}")


def _compare(
    node: sqlite3.Connection,
    store: sqlite3.Connection,
    batch_ranges: list[BatchRange],
    verdict: Verdict,
    earlier: frozenset[str],
) -> None:
    """Every captured reading, by itself."""
    streams = [Stream(*row) for row in node.execute(STREAMS)]
    rows = {row[0]: Row(*row[1:]) for row in node.execute(ROWS)}
    stored = {row[0]: Stored(*row[1:]) for row in store.execute(STORED)}
    verdict.stored = len(stored)
    verdict.stored_twice = {wire for wire, one in stored.items() if one.copies > 1}
    forgotten = _forgotten(stored, streams, earlier)
    known: set[str] = set()
    for batch_range in batch_ranges:
        for number in range(batch_range.first, batch_range.last + 1):
            place = bisect.bisect_right(streams, number, key=lambda one: one[0]) - 1
            stream = streams[place] if place >= 0 else UNKNOWN
            if batch_range.status in GONE:
                stream = forgotten.get(number, stream)
            wire = f"{stream.name}-{number - stream.first_id + stream.wire_first}"
            if wire in known:
                verdict.wrong.append(f"{wire}: two readings have this id")
            known.add(wire)
            one, row = stored.get(wire), rows.pop(number, None)
            if batch_range.status in ("SENT", "PURGED") and one is None:
                verdict.lost.add(wire)
            if batch_range.status == "DEAD" and not _died_justly(wire, store):
                verdict.dead_unjustly.add(wire)
            if fault := _fault(batch_range.status, row, one, stream.node):
                verdict.wrong.append(f"{wire}, id {number}, {batch_range.status}: {fault}")
    verdict.lost |= verdict.dead_unjustly - stored.keys()
    verdict.wrong += [f"row {number} is above all that was captured" for number in rows]
    foreign = {wire for wire in stored.keys() - known if wire.rpartition("-")[0] not in earlier}
    verdict.wrong += [f"{wire}: the sink has it, the node never had" for wire in sorted(foreign)]


def _forgotten(
    stored: Mapping[str, "Stored"], streams: list[Stream], earlier: frozenset[str]
) -> dict[int, Stream]:
    """By number: the streams that the node has forgotten, and the sink has messages of."""
    others = earlier | {one.name for one in streams}
    found = {}
    for wire, one in stored.items():
        name, _, number = wire.rpartition("-")
        if name not in others:
            found[int(number)] = Stream(int(number), name, int(number), one.node)
    return found


def _fault(status: str, row: "Row | None", stored: "Stored | None", node: str) -> str:
    """What is wrong with one reading's row, or with the sink's copies of it."""
    if (row is None) != (status in GONE):
        return "its row is gone" if row is None else "its row is still there"
    expected = ("PENDING", "FAILED") if status == "SENDING" else (status,)
    if row and row.status not in expected:
        return f"its row says {row.status}"
    if stored and stored.texts > 1:
        return "its copies differ"
    if stored and stored.node != node:
        return f"the sink has it of node {stored.node}, not {node}"
    if row and stored and row.content != stored.content:
        return f"captured was {row.content}, stored is {stored.content}"
    return ""


def _died_justly(wire: str, store: sqlite3.Connection) -> bool:
    """Whether the sink has taken other messages between the first and the last copy of this one."""
    seen = [
        number
        for number, headers, body in store.execute(REQUESTS)
        if f'"{wire}"'.encode() in _unpacked(headers, body)
    ]
    if not seen:
        return False
    between = (seen[0], seen[-1], wire)
    (taken,) = store.execute(TAKEN, between).fetchone()
    return bool(taken)


def _unpacked(headers: str, body: bytes) -> bytes:
    named = {name.lower(): value for name, value in json.loads(headers).items()}
    return zlib.decompress(body, wbits=31) if named.get("content-encoding") == "gzip" else body


def unaccounted_ticks(database: Path, rates: Mapping[str, float]) -> float:
    """Ticks of all sensors, from their first reading to their last, that are in no count.

    `rates`: readings a second by sensor. Nothing may have been purged or evicted.
    """
    with _reading(database) as node:
        (dropped,) = node.execute("SELECT coalesce(sum(n), 0) FROM dropped").fetchone()
        spans = node.execute(
            "SELECT name, count(*), (max(timestamp_us) - min(timestamp_us)) / 1e6"
            " FROM message GROUP BY name"
        ).fetchall()
    return sum(seconds * rates[name] + 1 - n for name, n, seconds in spans) - float(dropped)


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    uri = f"{file.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
        connection.execute("BEGIN")
        yield connection
