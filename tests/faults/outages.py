"""What must hold while a sink, or the way to it, misbehaves, and after it is mended."""

import time
from collections.abc import Callable
from typing import Any

from checker import Verdict, judge
from crash.node import Node
from sinks import Behaviour, SinkProcess, answer, ok
from waiting import wait_until

# Wide enough apart that a node which spins is told from one that keeps to its schedule.
LEAST_WAIT_SECONDS = 0.05  # half of initial_delay
QUICK: dict[str, dict[str, object]] = {
    "sensor": {"rate": 50},
    "retry": {"initial_delay": "100ms", "max_delay": "300ms"},
    "sink": {"timeout": "400ms"},
}
PROBES = 2
LATER = "it is tried again in"


def tries(node: Node) -> int:
    """How often any process has claimed a batch so as to send it."""
    return int(node.one("SELECT coalesce(sum(attempts), 0) FROM batch"))


def failures(node: Node) -> int:
    """Since the sink is DOWN."""
    return int(node.one("SELECT failures FROM sink"))


def is_down(node: Node) -> bool:
    return bool(node.one("SELECT state = 'DOWN' FROM sink"))


def await_down(node: Node, reason: str) -> None:
    """Wait until the sink is DOWN for that reason."""

    def said() -> bool:
        return is_down(node) and reason in str(node.one("SELECT reason FROM sink"))

    what = f"the sink is DOWN: {reason}"
    wait_until(said, 60, what, lambda: node.rows("SELECT state, reason FROM sink"))


def await_up(node: Node) -> None:
    wait_until(lambda: not is_down(node), 60, "the sink is UP again")


def kill_between_requests(node: Node, sink: SinkProcess) -> None:
    """The sink has answered for all that it has stored; whoever starts it again finds it well."""
    if not is_down(node):
        sink.behave(answer(503, stored=False))
        await_down(node, "503")
        in_flight = "SELECT n FROM tally WHERE status = 'SENDING'"
        wait_until(lambda: not node.one(in_flight), what="no request waits for its answer")
    sink.kill()
    sink.behave(ok())


def problem_of(node: Node, what: str) -> dict[str, str]:
    """The one problem in `status` that says so."""
    told = node.status()
    found: list[dict[str, str]] = [one for one in told["problems"] if what in one["what"]]
    assert len(found) == 1, told["problems"]
    assert told["state"] == "running"
    return found[0]


def assert_borne(node: Node, reason: str, hint: str = LATER, probes: int = PROBES) -> None:
    """The fault is there: capture goes on, no process ends, the retrier probes as it should."""
    pids = node.pids()
    await_down(node, reason)
    captured, began = node.captured(), time.monotonic()
    tried, failed = tries(node), failures(node)
    wait_until(lambda: failures(node) >= failed + probes, 90, f"{probes} probes: {reason}")
    # One may have begun just before.
    most = 1 + (time.monotonic() - began) / LEAST_WAIT_SECONDS
    assert tries(node) - tried <= most, f"{reason}: {tries(node) - tried} tries, not {most}"
    node.await_captured(captured + 5)
    problem = problem_of(node, reason)
    assert problem["what"].startswith("the sink is DOWN"), problem
    assert hint in problem["hint"], problem
    assert node.pids() == pids, reason


def assert_mended(node: Node) -> None:
    """The fault is gone: the sink is UP, and what was captured meanwhile arrives."""
    await_up(node)
    node.await_delivered()


def assert_endures(node: Node, sink: SinkProcess, faults: dict[str, tuple[Any, ...]]) -> None:
    """One fault after the other: name -> behaviour, reason, and the hint that `status` names."""
    for name, (behaviour, *said) in faults.items():
        print(f"fault: {name}")
        assert isinstance(behaviour, Behaviour)
        sink.behave(behaviour)
        assert_borne(node, *said)
        sink.behave(ok())
        sink.release()
        assert_mended(node)


def verdict_of(node: Node, sink: SinkProcess) -> Verdict:
    """Deliver, stop, and let the checker judge: nothing lost, nothing DEAD, nothing left over."""
    node.await_delivered()
    verdict = stopped_verdict(node, sink)
    assert (verdict.dead, verdict.in_doubt, verdict.evicted) == (0, 0, 0), str(verdict)
    assert verdict.dropped == 0, str(verdict)
    return verdict


def stopped_verdict(node: Node, sink: SinkProcess) -> Verdict:
    node.stop()
    assert node.processes() == []
    verdict = judge(node.database, sink.database)
    verdict.assert_good()
    print(verdict)
    return verdict


def await_messages(node: Node, status: str, count: int, why: Callable[[], object]) -> None:
    """Wait until exactly so many messages have the status."""
    query = "SELECT count(*) FROM message WHERE status = ?"
    what = f"{count} messages are {status}"
    wait_until(lambda: node.one(query, status) == count, 90, what, why)
