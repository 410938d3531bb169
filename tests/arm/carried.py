"""A database that another architecture has written: made here, looked at here."""

import contextlib
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import storage_fixtures

from sensor_node.storage.repository import SensorDataSQLRepository

# The unit tests and what they share have no types.
queue: Any = storage_fixtures
ROOT = Path(__file__).parents[2]
OF_EACH = 20
# Those of them that a node still owes the sink, and those that wait for a person.
UNDELIVERED, PARKED = ("PENDING", "SENDING", "FAILED"), ("DEAD", "IN_DOUBT")
STATUSES = ("PURGED", "EVICTED", "SENT", *PARKED, "FAILED", "SENDING", "PENDING")
CONTENT = "SELECT count(*), sum(value), sum(timestamp_us % 1000003) FROM message WHERE id <= {last}"
COUNTS = "SELECT status, count(*) FROM message_status GROUP BY status ORDER BY status"


class Written(NamedTuple):
    """What is in the database at `file`; `content` as CONTENT has it."""

    file: Path
    last: int
    content: tuple[int, float, int]
    counts: dict[str, int]


def write(file: Path) -> Written:
    """OF_EACH readings of each status; of those that are gone, nothing but their batch ranges."""
    now = time.time()
    repository = SensorDataSQLRepository(file)
    with contextlib.closing(repository):
        queue.fill(repository, OF_EACH * len(STATUSES), int((now - 3600) * 1e6), now)
        queue.deliver(repository, OF_EACH, now)
        repository.purge(0, None, now)
        queue.fail(repository, OF_EACH, now)
        repository.evict_oldest("max_size", now)
        queue.deliver(repository, OF_EACH, now)
        for status in PARKED:
            queue.park(repository, OF_EACH, status, now)
        queue.fail(repository, OF_EACH, now)
        assert repository.claim_fresh("sender-1", queue.POLICY, now, OF_EACH)
        repository.checkpoint(truncate=True)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        ((count, values, times),) = connection.execute(CONTENT.format(last=1 << 40))
        counts = dict(connection.execute(COUNTS))
    assert counts == dict.fromkeys(STATUSES[2:], OF_EACH), counts
    return Written(file, OF_EACH * len(STATUSES), (count, values, times), counts)


def audit(file: Path) -> int:
    """By the node of this checkout; how many readings there are."""
    config = file.with_suffix(".ini")
    config.write_text(f"[sensor:temperature]\n[storage]\npath = {file}\n")
    done = subprocess.run(
        ["/usr/bin/python3", "-m", "sensor_node", "-c", str(config), "audit"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"audit of {file}: {done.stdout}{done.stderr}"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM message")
    return int(count)
