"""The whole of it: phases of torture, then peace, and the verdict."""

import bisect
import itertools
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from checker import judge
from crash import proc
from waiting import wait_until

from .acts import do
from .plan import Action, actions
from .victim import RATES, Victim, victim, why_no_disk

Say = Callable[[str], None]
# Turns of a minute and a quarter, and of a quarter of that; shorter if there is less time.
TURN_SECONDS = 100.0
TURNS = (("at-least-once", 0.75), ("at-most-once", 0.25))
DRAIN_SECONDS = 300.0
# A generator's last tick and its successor's first are on two grids, for each sensor.
TICKS_A_START = len(RATES)
SILENCES = "SELECT first, last FROM event WHERE kind = 'not running'"
STARTS = "SELECT at FROM event WHERE kind = 'started' ORDER BY id"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHORT_SILENCE_US = 1_000_000
CAPTURED = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'message'"
DEATHS = "SELECT coalesce(sum(n), 0) FROM event WHERE kind = 'process died' AND detail LIKE ?"


def torture(seconds: float, seed: int, directory: Path, say: Say) -> bool:
    """Whether every promise held. What is needed to find out why not stays in the directory.

    `seconds` are those of torture; peace and the verdict come on top.
    """
    began = time.monotonic()
    done: Counter[str] = Counter()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - began:8.2f} {text}")

    if reason := why_no_disk():
        tell(f"no disk is filled: {reason}")
    with ExitStack() as stack:
        victims = [stack.enter_context(victim(name, directory / name)) for name, _ in TURNS]
        plans = [actions(f"{seed} {name}") for name, _ in TURNS]
        turn, left = min(TURN_SECONDS, seconds), seconds
        turns = itertools.cycle(zip(TURNS, victims, plans, strict=True))
        while left > 0.1:
            (_, share), one, plan = next(turns)
            tell(f"--- {one.name}")
            harass(one, plan, min(left, turn * share), tell, done)
            left -= turn * share
            one.calm_down(tell)
        kills = sum((one.kills for one in victims), Counter())
        tell("--- the verdict")
        wrong = [line for one in victims for line in verdict(one, tell)]
    say(f"actions: {told(done)}; {done.total()} in all")
    say(f"kills: {told(kills)}; {kills.total()} in all")
    for line in wrong:
        say(f"WRONG: {line}")
    say(f"verdict: {'bad' if wrong else 'good'}, seed {seed}")
    return not wrong


def told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))


def harass(
    one: Victim, plan: Iterator[Action], seconds: float, tell: Say, done: Counter[str]
) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        action = next(plan)
        tell(str(action))
        done[action.kind] += 1
        do(one, action)
        one.wait(min(action.pause, max(0.0, end - time.monotonic())))


def verdict(one: Victim, tell: Say) -> list[str]:
    """What is wrong with what the node has left, and with the delivery of it."""
    wrong = [f"{one.name}: {text}" for text in one.complaints]
    try:
        wrong += [f"{one.name}: {text}" for text in examine(one, tell)]
    except AssertionError as error:
        wrong.append(f"{one.name}: {error}")
    if wrong:
        shutil.copytree(one.node.state, one.directory / "state", ignore=lambda *_: ["lost+found"])
    return wrong


def examine(one: Victim, tell: Say) -> Iterator[str]:
    """Each thing that is wrong; raises AssertionError for what ends the examination."""
    node, sink = one.node, one.sink
    if node.processes():
        yield f"these did not end with the node: {node.processes()}"
    if left := proc.with_argument(str(one.directory)):
        yield f"these were left behind by a command: {left}"
    yield from crashes(one)
    missing, allowed = ticks(one)
    tell(f"{one.name}: {missing:.1f} ticks unaccounted for, {allowed} are the grids' own")
    if abs(missing) > allowed:
        yield f"{missing:.1f} ticks are unaccounted for"
    first = judge(node.database, sink.database)
    tell(f"{one.name}: {first}")
    first.assert_good()
    doubtful = node.wire_ids("status = 'IN_DOUBT'")
    if one.name == "at-most-once":
        yield from (f"{wire} was stored twice" for wire in sorted(first.stored_twice))
    drain(one)
    last = judge(node.database, sink.database)
    tell(f"{one.name}: delivered: {last}")
    last.assert_good()
    # With drop-oldest a full disk may cost the oldest, which the history tells of.
    if (unsent := last.captured - last.stored - last.evicted) > 0:
        yield f"{unsent} were neither delivered in the end nor evicted"
    if one.name == "at-most-once":
        yield from (f"{wire} was repeated" for wire in sorted(last.stored_twice - doubtful))
    elif first.in_doubt:
        yield f"{first.in_doubt} are in doubt, though they may be repeated"


def crashes(one: Victim) -> Iterator[str]:
    for file in sorted(one.node.state.glob("sensor-node.log*")):
        text = file.read_text(errors="replace")
        if (place := text.find("Traceback")) >= 0:
            yield f"{file.name}: {text[max(0, place - 200) : place + 2000]}"


def ticks(one: Victim) -> tuple[float, int]:
    """Ticks that are neither captured, dropped nor of a time when nothing ran; and how many may be.

    A silence before a run's start is told by an event, or shorter than a second.
    """
    node, taken = one.node, times(one)
    silences = node.rows(SILENCES)
    starts = [int(at * 1e6) for (at,) in node.rows(STARTS)]
    told = [last for _, last in silences]
    moments = sorted(itertools.chain.from_iterable(taken.values()))
    for at in starts:
        # Not the run's own first reading, which is taken as it starts.
        before = moments[max(0, bisect.bisect_left(moments, at - 1000) - 1)]
        begins = max([before, *(last for last in told if last <= at)])
        if 0 <= at - begins < SHORT_SILENCE_US:
            silences.append((begins, at))
    quiet = length(silences) / 1e6 * sum(RATES.values())
    due = sum((max(us) - min(us)) / 1e6 * RATES[name] + 1 for name, us in taken.items())
    deaths = node.one(DEATHS, "generator %")
    allowed = TICKS_A_START * (len(starts) + deaths + one.reloads)
    return due - node.one(CAPTURED) - node.dropped() - quiet, allowed


def times(one: Victim) -> dict[str, set[int]]:
    """Of each sensor's readings, in microseconds; the sink has what a full disk has purged."""
    assert one.remember(), "the database cannot be read"
    found = {name: set(seen) for name, seen in one.readings.items()}
    with closing(sqlite3.connect(one.sink.database)) as connection:
        for name, text in connection.execute("SELECT DISTINCT name, timestamp FROM received"):
            since = datetime.fromisoformat(text) - EPOCH
            found[name].add(since // timedelta(microseconds=1))
    return {name: us for name, us in found.items() if us}


def length(spans: list[tuple[int, int]]) -> int:
    """Of all of them together; where they overlap, once."""
    total = end = 0
    for first, last in sorted(spans):
        total += max(0, last - max(first, end))
        end = max(end, last)
    return total


def drain(one: Victim) -> None:
    """Whatever waits for a person is sent again, and nothing new is captured."""
    node = one.node
    for name in RATES:
        section = "sensor" if name == "temperature" else f"sensor:{name}"
        node.configure(**{section: {"rate": "1/h"}})
    node.run("start")
    for which in ("--dead", "--in-doubt"):
        node.run("requeue", which)
    undelivered = ("pending", "in_flight", "failed", "dead", "in_doubt")

    def drained() -> bool:
        counts = node.status()["counts"]
        return not any(counts[name] for name in undelivered)

    wait_until(drained, DRAIN_SECONDS, f"{one.name}: everything is delivered", node.story)
    node.run("stop")
