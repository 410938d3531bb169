"""Remembers by how much the wall clock was set while readings waited: that is not their age.

The clock of a box without a battery says 1970 until the network comes. Nobody can set the time
since boot, so the difference between the two clocks shows a step, even one while no node ran. The
time since boot says nothing across a boot: all that the wall clock moved then counts as a step.
See docs/adr/0009.
"""

import json
import sqlite3
from typing import NamedTuple

from sensor_node.core.clock import Moment
from sensor_node.storage.journal import key_value

KEY = "clock"  # of key_value: a Record as JSON
# A smaller step makes no difference to a wait or an age.
LEAST_STEP_SECONDS = 1.0
# Of more steps than these, the two oldest become one, so that no reading looks older than it is.
MOST_STEPS = 100
# A step is noticed before so many readings are stored after it. Older ones are not searched for it.
MOST_AFTER = 1_000_000
# Not so many captured before a step wait in memory when it is noticed, to be stored after it.
MOST_LATE = 150_000
# A step is noticed a little late, so the newest readings may have been captured after it. A reading
# from before the step has a time nearer to the old clock's than to the new one's. If the clock was
# set back, that time lies in the future, by more than this or half the step. Times of the new clock
# lie there by less: those that are stored while the housekeeper waits for the write lock.
LATE_US = 10_000_000
LAST_BEFORE_FORWARD = """
SELECT id FROM message
WHERE id > :above AND coalesce(captured_us, timestamp_us) < :now_us - :step_us / 2
ORDER BY id DESC LIMIT 1
"""
LAST_BEFORE_BACK = """
SELECT id FROM message WHERE id > :above
  AND coalesce(captured_us, timestamp_us) > :now_us + min(-:step_us / 2, :late_us)
ORDER BY id DESC LIMIT 1
"""
# The first reading after the clock was set back: its time is earlier.
FIRST_AFTER_BACK = """
SELECT id FROM message
WHERE id > :id AND id <= :most AND coalesce(captured_us, timestamp_us) < :at_us + :step_us / 2
ORDER BY id LIMIT 1
"""


class Step(NamedTuple):
    """The wall clock was set once."""

    last_id: int  # the last message captured before
    seconds: float  # by how much: negative if it was set back
    wall: float  # what it said when the step was noticed, in seconds since 1970


class Record(NamedTuple):
    """Where the clocks stood when the housekeeper last looked, and the steps that still matter."""

    boot: str  # the kernel's boot id
    wall: float  # the wall clock, in seconds since 1970
    offset: float  # the wall clock less the time since boot, in seconds
    steps: list[Step]  # oldest first


def note(
    connection: sqlite3.Connection, now: Moment, boot: str, first_undelivered: int, highest_id: int
) -> float | None:
    """Record where the clocks stand, and a step if there was one since the last record.

    `boot` is the boot id. Steps before `first_undelivered` are dropped: what is delivered needs no
    age. Returns the seconds by which the clock was set, 0 if it was not, None after another boot:
    then nobody knows.
    """
    offset = now.wall - now.boottime
    before = _read(connection) or Record(boot, now.wall, offset, [])
    same_boot = boot == before.boot
    seconds = offset - before.offset if same_boot else now.wall - before.wall
    steps = [step for step in before.steps if step.last_id >= first_undelivered]
    if abs(seconds) < LEAST_STEP_SECONDS:
        seconds, offset = 0.0, before.offset if same_boot else offset
    else:
        oldest_after = highest_id - MOST_AFTER
        above = max(first_undelivered - 1, oldest_after, steps[-1].last_id if steps else 0)
        step_us = int(seconds * 1e6)
        row = {"above": above, "now_us": now.wall_us, "step_us": step_us, "late_us": LATE_US}
        query = LAST_BEFORE_FORWARD if seconds > 0 else LAST_BEFORE_BACK
        last = connection.execute(query, row).fetchone()
        steps.append(Step(last[0] if last else above, seconds, now.wall))
    while len(steps) > MOST_STEPS:
        oldest, newer = steps[:2]
        steps[:2] = [newer._replace(seconds=newer.seconds + max(0.0, oldest.seconds))]
    key_value.put(connection, KEY, json.dumps(Record(boot, now.wall, offset, steps)))
    return seconds if same_boot else None


def since(
    connection: sqlite3.Connection, message_id: int, captured_us: int
) -> tuple[float, int | None]:
    """By how many seconds the clock was set since the message was captured, and the last such id.

    All messages from this one to that id have the same seconds. None: all later ones have.
    """
    record = _read(connection)
    steps = record.steps if record else []
    later = [step for step in steps if step.last_id >= message_id]
    seconds = sum(step.seconds for step in later)
    last_alike = later[0].last_id if later else None
    if len(later) == len(steps):
        return seconds, last_alike
    # It was stored after this step, but may have been captured before it.
    step = steps[-len(later) - 1]
    ahead = captured_us / 1e6 - step.wall
    if step.seconds > 0 and ahead < -step.seconds / 2:
        return seconds + step.seconds, last_alike
    if step.seconds < 0 and -step.seconds / 2 < ahead < -step.seconds + LATE_US / 1e6:
        row = {"id": message_id, "most": step.last_id + MOST_LATE}
        row |= {"at_us": captured_us, "step_us": int(step.seconds * 1e6)}
        if after := connection.execute(FIRST_AFTER_BACK, row).fetchone():
            return seconds + step.seconds, after[0] - 1
    return seconds, last_alike


def _read(connection: sqlite3.Connection) -> Record | None:
    text = key_value.get(connection, KEY)
    if text is None:
        return None
    boot, wall, offset, steps = json.loads(text)
    return Record(boot, wall, offset, [Step(*step) for step in steps])
