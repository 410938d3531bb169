"""The experiments in which others were seen to lose records: spells of a bad sink, and kills.

For `scripts/bench faults`, and in short for a test.
"""

import contextlib
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from checker import Verdict, judge
from crash import proc
from crash.node import Node, running
from sinks import Behaviour, SinkProcess, answer, delay, ok, reset
from waiting import wait_until

SENT = "SELECT n FROM tally WHERE status = 'SENT'"
LONGEST_DRAIN_SECONDS = 400.0
# By the names in the table: what the sink does during the spell.
SPELLS = {
    "503": answer(503),
    "429 with Retry-After 5": answer(429, Retry_After="5"),
    "400": answer(400),
    "stored, then connection reset": reset(),
}
# How many kills, and what the sink does all the time.
STORMS = {"sink up": (30, ok()), "sink 200 ms slow": (40, delay(0.2))}
# Between two kills.
CALM_SECONDS = (1.0, 2.5)


@dataclass(frozen=True)
class Result:
    """`requests`: what the sink got during the spell. `drained`: seconds from its end."""

    verdict: Verdict
    requests: int
    drained: float

    @property
    def lost(self) -> int:
        """Accepted, and stored 0 times or left where nobody looks."""
        found = self.verdict
        return len(found.lost) + found.undelivered + found.in_doubt + found.evicted

    @property
    def stored_twice(self) -> int:
        """By a sink that keeps ids."""
        return max(0, self.verdict.stored - self.verdict.captured)

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.stored_twice or self.verdict.wrong or self.verdict.dead)


def spell(
    directory: Path,
    bad: Behaviour,
    *,
    rate: int,
    before: float,
    lasts: float,
    after: float,
    **sections: dict[str, object],
) -> Result:
    """Capture all the time; the sink is bad for as long as it `lasts`. Times in seconds."""
    sensor: dict[str, object] = {"rate": rate, "waveform": "random-walk"}
    with running(directory, sensor=sensor, **sections) as (node, sink):
        node.await_captured(int(rate * before))
        requests = sink.request_count()
        sink.behave(bad)
        # Only now: telling the sink takes long on a busy machine. After a stall capture catches up
        # before anything is sent.
        captured = node.captured() + int(rate * lasts)
        wait_until(lambda: sink.behaved(bad), what="the sink has shown its bad side")
        captured = node.await_captured(captured)
        requests = sink.request_count() - requests
        sink.behave(ok())
        ended = time.monotonic()
        node.await_captured(captured + int(rate * after))
        return finish(node, sink, requests, ended)


def storm(
    directory: Path,
    usual: Behaviour,
    *,
    rate: int,
    kills: int,
    seed: int,
    **sections: dict[str, object],
) -> Result:
    """Kill any process, the supervisor too, which is started again. Nobody else is."""
    sensor: dict[str, object] = {"rate": rate, "waveform": "random-walk"}
    dice = random.Random(seed)
    with running(directory, sensor=sensor, **sections) as (node, sink):
        sink.behave(usual)
        node.await_captured(rate)
        for _ in range(kills):
            time.sleep(dice.uniform(*CALM_SECONDS))
            strike(node, dice)
        requests = sink.request_count()
        return finish(node, sink, requests, time.monotonic())


def strike(node: Node, dice: random.Random) -> None:
    pids = node.pids()
    name = dice.choice(sorted(pids))
    with contextlib.suppress(ProcessLookupError):
        proc.send(pids[name], signal.SIGKILL)
    if name == "supervisor":
        wait_until(lambda: not proc.is_alive(pids[name]), what="the supervisor is dead")
        node.start()


def finish(node: Node, sink: SinkProcess, requests: int, ended: float) -> Result:
    """Capture next to nothing more, deliver what is left, and let the checker judge."""
    node.stop()
    captured = node.captured()
    node.configure(sensor={"rate": "1/h"})
    node.start()
    captured = node.await_captured(captured + 1)
    # A result that is not good is the caller's to tell.
    with contextlib.suppress(AssertionError):
        wait_until(lambda: node.one(SENT) == captured, LONGEST_DRAIN_SECONDS)
    drained = time.monotonic() - ended
    node.stop()
    return Result(judge(node.database, sink.database), requests, drained)
