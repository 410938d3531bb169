"""Reads all that can still be read in a database that is not in use and may be damaged.

It changes nothing in the file. SQLite fails on a page that it cannot follow. Then the range of ids
is halved, again and again, until all sound rows around that page have been read.
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
# A damaged page that only leads to other pages makes thousands of ids unreadable. So many failed
# reads take some ten seconds. After them a range that fails is not halved any more.
MOST_FAILURES = 1_000_000
LEAF = 0x0D  # a page with rows: https://www.sqlite.org/fileformat2.html#b_tree_pages
STREAM_NAME = re.compile(r"[0-9a-f]{24}")
NAME_DIGITS = 24

# So SQLite also reads a file that was cut off, or whose schema makes no sense.
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
    """An open database, and counts of what has been read in it so far.

    `found` readings, of which `delivered` were SENT. `keeps_ids`: the readings have the ids that
    they had in the file; else its streams are damaged, and they get ids of a made-up one.
    `node` is the node of the readings then.

    Raises Unreadable; SensorNodeError for a file of another program or of a newer version;
    StorageUnavailable if the disk has no room for the index of its WAL.
    """

    def __init__(self, path: Path, node: str) -> None:
        home.insist_on(path)
        self.path = path
        self.found = self.delivered = 0
        self._failed_ids = self._failures = 0
        self._cut_ids = _ids_on_a_cut_page(path)
        self._shm = shm_of(path)
        self._shm_was_there = self._shm.exists()
        uri = f"{path.as_uri()}?mode=ro"
        if wal_bytes(path):
            shm.insist_on_room(path, PAGE_SIZE)
        else:
            uri += "&immutable=1"
        self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        try:
            self._connection.text_factory = bytes
            self._connection.execute(TOLERATE)
            self._insist_on_ours()
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
        """How many readings there must have been in the file that were not found in it."""
        with contextlib.suppress(sqlite3.DatabaseError):
            (gone,) = self._connection.execute(GONE).fetchone()
            missing = message_ids.highest_id(self._connection) - int(gone) - self.found
            return max(self._failed_ids, missing)
        return self._failed_ids

    def undelivered(self, *, at_most_once: bool) -> Iterator[list[Salvaged]]:
        """The readings that were not SENT, in chunks, in the order of capture.

        A damaged file, or a copy of an earlier day, does not prove that a reading was never sent.
        So what waited becomes FAILED, or IN_DOUBT with at-most-once.
        """
        waiting = "IN_DOUBT" if at_most_once else "FAILED"
        highest = self._highest_id()
        first: int | None = 1
        while first is not None and first <= highest:
            last = min(first + IDS_A_CHUNK - 1, highest)
            chunk = []
            for message_id, status, reading in self._sound_rows(first, last):
                self.found += 1
                if status == b"SENT":
                    self.delivered += 1
                    continue
                new_status = status.decode() if status in (b"DEAD", b"IN_DOUBT") else waiting
                stream = self._stream_of(message_id)
                number = stream.number(message_id)
                chunk.append(Salvaged(stream.name, number, stream.node, new_status, reading))
            if chunk:
                yield chunk
            first = self._next_id(last + 1)

    def _insist_on_ours(self) -> None:
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
        """Empty if any is damaged: readings would get the ids of others."""
        streams: list[Stream] = []
        try:
            for first, name, wire_first, node in self._connection.execute(STREAMS):
                stream = Stream(int(first), name.decode(), int(wire_first), node.decode())
                if not STREAM_NAME.fullmatch(stream.name):
                    return []
                streams.append(stream)
        except (sqlite3.DatabaseError, ValueError, AttributeError):
            return []
        return streams if streams and streams[0].first_id <= (self._next_id(1) or 1) else []

    def _made_up_stream(self, node: str) -> Stream:
        """A stream whose name follows from the first rows.

        So it is the same at each salvage, and nothing is brought back twice.
        """
        first = self._next_id(1) or 1
        rows = repr(self._sound_rows(first, first + IDS_A_CHUNK))
        self._failed_ids = 0  # they are counted when they are read again
        return Stream(1, hashlib.sha256(rows.encode()).hexdigest()[:NAME_DIGITS], 1, node)

    def _stream_of(self, message_id: int) -> Stream:
        place = bisect_right(self._streams, message_id, key=lambda stream: stream.first_id)
        return self._streams[place - 1]

    def _highest_id(self) -> int:
        """No id in the file is higher; the highest possible one if nothing says more."""
        ids = []
        for read in (message_ids.highest_id, message_ids.highest_claimed_id):
            with contextlib.suppress(sqlite3.DatabaseError, TypeError, ValueError):
                ids.append(read(self._connection))
        return max(ids, default=0) or 2**63 - 1

    def _next_id(self, first: int) -> int | None:
        """The next id from `first` on, or `first` where SQLite cannot tell; None at the end."""
        try:
            row = self._connection.execute(NEXT_ID, {"id": first}).fetchone()
        except sqlite3.DatabaseError:
            return first if self._failures < MOST_FAILURES else None
        return row[0] if row else None

    def _sound_rows(self, first: int, last: int) -> list[tuple[int, bytes, Reading | DatedReading]]:
        """Id, status and reading of all sound rows of the range, which is halved around damage."""
        sound_rows: list[tuple[int, bytes, Reading | DatedReading]] = []
        ranges = [(first, last)]
        while ranges:
            first, last = ranges.pop()
            rows, is_sound = self._read(first, last)
            if is_sound and (not rows or len(rows) == last - first + 1):
                sound_rows += rows
            elif first == last or self._failures > MOST_FAILURES:
                self._failed_ids += last - first + 1
            else:
                middle = (first + last) // 2
                ranges += [(middle + 1, last), (first, middle)]
        return sound_rows

    def _read(
        self, first: int, last: int
    ) -> tuple[list[tuple[int, bytes, Reading | DatedReading]], bool]:
        """The rows of the range, and whether SQLite read it to its end and all rows are sound."""
        rows: list[tuple[int, bytes, Reading | DatedReading]] = []
        try:
            for row in self._connection.execute(RANGE, {"first": first, "last": last}):
                reading = _reading(*row[2:])
                in_order = not rows or row[0] > rows[-1][0]
                if reading is None or not in_order or row[0] in self._cut_ids:
                    break
                rows.append((row[0], row[1], reading))
            else:
                return rows, True
        except sqlite3.DatabaseError:
            pass  # a page that SQLite cannot follow
        self._failures += 1
        return rows, False


def _ids_on_a_cut_page(path: Path) -> set[int]:
    """Ids of rows on the last page of a file that was cut off within that page.

    SQLite reads the missing part as zeros, and would give these rows wrong values.
    """
    with path.open("rb") as file:
        page_size = int.from_bytes(file.read(18)[16:]) or 1
        file.seek(path.stat().st_size // page_size * page_size)
        page = file.read(page_size).ljust(page_size, b"\0")
    ids = set()
    for place in range(int.from_bytes(page[3:5]) if page[0] == LEAF else 0):
        cell = int.from_bytes(page[8 + 2 * place : 10 + 2 * place])
        _, id_at = _varint(page, cell)  # after the length of the row
        ids.add(_varint(page, id_at)[0])
    return ids


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """The number at that place, of seven bits a byte, and where it ends; no id has nine bytes."""
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
    """None for a row that no sensor can have given: its page is damaged."""
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
