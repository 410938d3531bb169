"""In the guest: a child's slot that is written as fast as it goes, as its supervisor sees it.

Argument: seconds. Prints how often it looked, how often a healthy child looked ill, and how often
the child went around, as JSON.
"""

import json
import os
import signal
import sys
import time

from sensor_node.supervision import hangs
from sensor_node.supervision.slots import Signs, Slot, make_slots

AT_ONCE = 100


class Worst:
    """Nothing in /proc excuses it."""

    def is_stopped(self) -> bool:
        return True

    def waits_for_disk(self) -> bool:
        return False


def work(mine: Slot, count: Slot) -> None:
    """What a child does around each transaction, without the transaction."""
    while True:
        for _ in range(AT_ONCE):
            mine.beat()
            mine.waiting()
            mine.holding()
            mine.released()
        count._put(0, count._get(0) + AT_ONCE)


def looks_well(signs: Signs, now: float) -> bool:
    """Also a time that is still to come would be of a word half written."""
    times = (signs.beat, signs.waiting_since, signs.holding_since)
    if any(time is not None and time > now + hangs.HOLD_SECONDS for time in times):
        return False
    return hangs.judge(signs, now, hangs.HOLD_SECONDS, Worst()) is hangs.Liveness.WELL


def main() -> None:
    mine, count = make_slots(2)
    mine.reset()
    child = os.fork()
    if child == 0:
        work(mine, count)
    looks = ill = 0
    end = time.monotonic() + float(sys.argv[1])
    try:
        while (now := time.monotonic()) < end:
            ill += not looks_well(mine.signs(), now)
            looks += 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print(json.dumps({"looks": looks, "ill": ill, "rounds": count._get(0)}))


if __name__ == "__main__":
    main()
