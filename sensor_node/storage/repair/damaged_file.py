"""A database that is not in use and may be damaged: what can still be read of it, row by row.

Nothing is changed in it. SQLite says which pages it cannot follow; around them the range of ids
is halved until what is sound has been read.
"""

import contextlib
import hashlib
import math
import re
import sqlite3
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from sensor_node.core.errors import SensorNodeError
from sensor_node.core.model import DatedReading, Reading, Stream
from sensor_node.storage.engine import home, shm
from sensor_node.storage.engine.checkpoint import wal_bytes
from sensor_node.storage.engine.connection import PAGE_SIZE
from sensor_node.storage.engine.quarantine import shm_of
from sensor_node.storage.engine.schema import APPLICATION_ID, newest_version
from sensor_node.storage.queue import message_ids
from sensor_node.storage.repair import replace_header
from sensor_node.storage.repair.salvage import Salvaged

IDS_A_CHUNK = 2000
# A damaged page that holds none but the way to others makes thousands of ids unreadable. That many
# readings that fail take some ten seconds; what comes after is only looked at, not halved.
MOST_FAILURES = 1_000_000
LEAF = 0x0D  # of https://www.sqlite.org/fileformat2.html#b_tree_pages
STREAM_NAME = re.compile(r"[0-9a-f]{24}")
NAME_DIGITS = 24

# All that can be read is read, of a file that was cut off and with tables that make no sense.
TOLERATE = "PRAGMA writable_schema = ON"
HAS_TABLE = "SELECT id FROM message LIMIT 0"
NEXT_ID = "SELECT id FROM message WHERE id >= :id ORDER BY id LIMIT 1"
RANGE = """
SELECT id, status, name, value, timestamp_us, captured_us FROM message
WHERE id BETWEEN :first AND :last ORDER BY id
"""
STREAMS = "SELECT first_id, name, wire_first, node FROM stream ORDER BY first_id"
GONE = "SELECT coalesce(sum(n), 0) FROM tally WHERE status IN ('PURGED', 'EVICTED')"


class Unreadable(SensorNodeError):
    """SQLite finds no readings at all in the file."""


class DamagedFile:
    """`node`: whose readings they are, where the file does not say any more.

    Raises Unreadable, or SensorNodeError where it is another program's or newer than this one, or
    the disk has no room for the index of its WAL.
    """

    def __init__(self, path: Path, node: str) -> None:
        home.insist_on(path)
        self.path = path
        self.found = self.delivered = 0
        self._failed_ids = self._failures = 0
        self._not_whole = _ids_on_a_cut_page(path)
        self._shm = shm_of(path)
        self._shm_was_there = self._shm.exists()
        how = "mode=ro&immutable=1"
        if wal_bytes(path):
            how = "mode=ro"
            shm.insist_on_room(path, PAGE_SIZE)
        self._connection = sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None)
        try:
            self._connection.text_factory = bytes
            self._connection.execute(TOLERATE)
            self._recognise()
            self.keeps_ids = True
            self._streams = self._read_streams()
            if not self._streams:
                self.keeps_ids = False
                self._streams = [self._made_up_stream(node)]
        except sqlite3.DatabaseError as error:
            self.close()
            raise Unreadable(f"{path}: cannot be read: {error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()
        if not self._shm_was_there:
            self._shm.unlink(missing_ok=True)

    @property
    def unreadable(self) -> int:
        """How many readings there must have been that were not found."""
        with contextlib.suppress(sqlite3.DatabaseError):
            (gone,) = self._connection.execute(GONE).fetchone()
            missing = message_ids.highest_id(self._connection) - int(gone) - self.found
            return max(self._failed_ids, missing)
        return self._failed_ids

    def undelivered(self, *, at_most_once: bool) -> Iterator[list[Salvaged]]:
        """Chunks in the order of capture.

        A damaged file, or a copy of an earlier day, does not prove that a reading was never sent:
        with at-most-once each is IN_DOUBT.
        """
        waiting = "IN_DOUBT" if at_most_once else "FAILED"
        top = self._top()
        first: int | None = 1
        while first is not None and first <= top:
            last = min(first + IDS_A_CHUNK - 1, top)
            chunk = []
            for message_id, status, reading in self._sound_rows(first, last):
                self.found += 1
                if status == b"SENT":
                    self.delivered += 1
                    continue
                kept = status.decode() if status in (b"DEAD", b"IN_DOUBT") else waiting
                stream = self._stream_of(message_id)
                number = stream.number(message_id)
                chunk.append(Salvaged(stream.name, number, stream.node, kept, reading))
            if chunk:
                yield chunk
            first = self._next_id(last + 1)

    def _recognise(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID and not replace_header.is_ours(self.path):
            raise SensorNodeError(f"{self.path}: is not a Sensor Node database")
        if version > newest_version():
            raise SensorNodeError(
                f"{self.path}: has schema {version}, this program knows {newest_version()}; "
                "salvage it with the newer version of sensor-node"
            )
        self._connection.execute(HAS_TABLE)

    def _read_streams(self) -> list[Stream]:
        """None if any is damaged: readings would be given the ids of others."""
        found = []
        try:
            for first, name, wire_first, node in self._connection.execute(STREAMS):
                stream = Stream(int(first), name.decode(), int(wire_first), node.decode())
                if not STREAM_NAME.fullmatch(stream.name):
                    return []
                found.append(stream)
        except (sqlite3.DatabaseError, ValueError, AttributeError):
            return []
        return found if found and found[0].first_id <= (self._next_id(1) or 1) else []

    def _made_up_stream(self, node: str) -> Stream:
        """The same each time, so that nothing is brought back twice."""
        first = self._next_id(1) or 1
        seen = repr(self._sound_rows(first, first + IDS_A_CHUNK))
        self._failed_ids = 0  # they will be counted when they are read again
        return Stream(1, hashlib.sha256(seen.encode()).hexdigest()[:NAME_DIGITS], 1, node)

    def _stream_of(self, message_id: int) -> Stream:
        place = bisect_right(self._streams, message_id, key=lambda stream: stream.first_id)
        return self._streams[place - 1]

    def _top(self) -> int:
        """No id is higher."""
        tops = []
        for highest in (message_ids.highest_id, message_ids.highest_claimed_id):
            with contextlib.suppress(sqlite3.DatabaseError, TypeError, ValueError):
                tops.append(highest(self._connection))
        return max(tops, default=0) or 2**63 - 1

    def _next_id(self, first: int) -> int | None:
        """Where to go on reading; None at the end."""
        try:
            row = self._connection.execute(NEXT_ID, {"id": first}).fetchone()
        except sqlite3.DatabaseError:
            return first if self._failures < MOST_FAILURES else None
        return row[0] if row else None

    def _sound_rows(self, first: int, last: int) -> list[tuple[int, bytes, Reading | DatedReading]]:
        """Id, status and reading. Where the pages do not hold together, range by range."""
        found: list[tuple[int, bytes, Reading | DatedReading]] = []
        ranges = [(first, last)]
        while ranges:
            first, last = ranges.pop()
            rows, sound = self._read(first, last)
            if sound and (not rows or len(rows) == last - first + 1):
                found += rows
            elif first == last or self._failures > MOST_FAILURES:
                self._failed_ids += last - first + 1
            else:
                middle = (first + last) // 2
                ranges += [(middle + 1, last), (first, middle)]
        return found

    def _read(
        self, first: int, last: int
    ) -> tuple[list[tuple[int, bytes, Reading | DatedReading]], bool]:
        """The rows of the range, and whether all that there are were read, each at its place."""
        rows: list[tuple[int, bytes, Reading | DatedReading]] = []
        try:
            for row in self._connection.execute(RANGE, {"first": first, "last": last}):
                reading = _reading(*row[2:])
                in_order = not rows or row[0] > rows[-1][0]
                if reading is None or not in_order or row[0] in self._not_whole:
                    break
                rows.append((row[0], row[1], reading))
            else:
                return rows, True
        except sqlite3.DatabaseError:
            pass  # a page that SQLite cannot follow
        self._failures += 1
        return rows, False


def _ids_on_a_cut_page(path: Path) -> set[int]:
    """Of a file that was cut off within a page, SQLite takes what is missing for zeros."""
    with path.open("rb") as file:
        page_size = int.from_bytes(file.read(18)[16:]) or 1
        file.seek(path.stat().st_size // page_size * page_size)
        page = file.read(page_size).ljust(page_size, b"\0")
    ids = set()
    for place in range(int.from_bytes(page[3:5]) if page[0] == LEAF else 0):
        cell = int.from_bytes(page[8 + 2 * place : 10 + 2 * place])
        _, cell = _varint(page, cell)  # the length of the row
        ids.add(_varint(page, cell)[0])
    return ids


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends; ids of nine bytes do not come up."""
    number, end = 0, min(at + 8, len(page))
    while at < end:
        number = number << 7 | page[at] & 0x7F
        at += 1
        if page[at - 1] < 0x80:
            break
    return number, at


def _reading(
    name: object, value: object, timestamp_us: object, captured_us: object
) -> Reading | DatedReading | None:
    """None for what no sensor could have given: the page is damaged."""
    if not isinstance(name, bytes) or not isinstance(timestamp_us, int):
        return None
    if not isinstance(value, float) or not math.isfinite(value):
        return None
    try:
        if captured_us is None:
            return Reading(name.decode(), value, timestamp_us)
        if isinstance(captured_us, int):
            return DatedReading(name.decode(), value, timestamp_us, captured_us)
    except UnicodeDecodeError:
        pass
    return None
