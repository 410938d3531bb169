"""By how much the wall clock was set while readings waited, so that their age is time that passed.

The clock of a box without a battery says 1970 until the network comes. Nobody can set the time
since boot: what the wall clock moved beyond it was a step, also if the appliance did not run
meanwhile. Across a boot nothing is known, and all that the wall clock moved counts as a step.
"""

import json
import sqlite3
from typing import NamedTuple

from sensor_node.core.clock import Moment
from sensor_node.storage.journal import key_value

MEMO = "clock"
# A smaller one is nothing that a wait or an age would notice.
LEAST_STEP_SECONDS = 1.0
# Beyond these the oldest are taken together, so that nothing looks older than it is.
MOST_STEPS = 100
# No more readings come before a step is noticed: it is not looked for among the older ones.
MOST_AFTER = 1_000_000
# Nor do more wait in memory to be stored when it is noticed.
MOST_LATE = 150_000
# A step is noticed a little late: the newest readings may be of after it. Those of before are
# nearer to what the clock said then or, if it was set back, in its future; but not by so little as
# what is stored while whoever has noticed waits for the write lock.
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
# The clock was set back: what comes after is earlier.
FIRST_AFTER_BACK = """
SELECT id FROM message
WHERE id > :id AND id <= :most AND coalesce(captured_us, timestamp_us) < :at_us + :step_us / 2
ORDER BY id LIMIT 1
"""


class Step(NamedTuple):
    """The clock was set by `seconds`, and then said `wall`; `last_id` was captured before."""

    last_id: int
    seconds: float
    wall: float


class Noted(NamedTuple):
    """What the database remembers: the boot, the wall clock, what that was ahead of the boot's."""

    boot: str
    wall: float
    offset: float
    steps: list[Step]


def note(
    connection: sqlite3.Connection, now: Moment, boot: str, first_undelivered: int, highest_id: int
) -> float | None:
    """Remember where the clock stands. Returns the seconds by which it was set since, 0: not.

    None after another boot: then nobody knows. What is delivered needs no age.
    """
    offset = now.wall - now.boottime
    before = _read(connection) or Noted(boot, now.wall, offset, [])
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
    key_value.put(connection, MEMO, json.dumps(Noted(boot, now.wall, offset, steps)))
    return seconds if same_boot else None


def since(
    connection: sqlite3.Connection, message_id: int, captured_us: int
) -> tuple[float, int | None]:
    """By how many seconds the clock was set since the message was captured.

    And the last id of which the same is true, None: of all that come after it.
    """
    noted = _read(connection)
    steps = noted.steps if noted else []
    later = [step for step in steps if step.last_id >= message_id]
    seconds = sum(step.seconds for step in later)
    last_alike = later[0].last_id if later else None
    if len(later) == len(steps):
        return seconds, last_alike
    # It was stored after this step, and may have been captured before.
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


def _read(connection: sqlite3.Connection) -> Noted | None:
    text = key_value.get(connection, MEMO)
    if text is None:
        return None
    boot, wall, offset, steps = json.loads(text)
    return Noted(boot, wall, offset, [Step(*step) for step in steps])
