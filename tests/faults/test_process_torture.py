"""P1 to P5: half a minute of torture; and, while it lasts, processes that hang beyond their limits.

A process that hangs is given half a minute and the time of a request. So that nobody waits for
that, they are made to hang before the torture begins, and looked at when it is over.
"""

import contextlib
import os
import signal
import time

import pytest
from checker import judge, unaccounted_ticks
from crash import proc
from crash.node import assert_nothing_lost, assert_on_grid, await_hanging, running
from faults.dead_mount import dead_mount, why_not
from sinks import hang, ok
from torture.run import torture
from waiting import wait_until

SECONDS = 24
# Nearly every kind of fault is among its first.
SEED = 6
# Also of a process that may take a second for a request, until it is killed.
LIMIT_SECONDS = 30 + 1 + 2
BRIEF = {"timeout": "1s"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A node whose generator, retrier and housekeeper were stopped, and their pids."""
    directory = tmp_path_factory.mktemp("stopped")
    with running(directory, sink=BRIEF, sensor={"rate": 20}) as (node, sink):
        node.await_delivered(10)
        pids = {name: node.stop_idle(name) for name in ("generator", "retrier", "housekeeper")}
        yield node, sink, pids


@pytest.fixture(scope="module")
def hung(tmp_path_factory):
    """A node whose senders and retrier hang in a system call: their token is on a dead mount."""
    if reason := why_not():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("hung")
    place = directory / "mount"
    place.mkdir()
    (place / "token").write_text("sesame\n")
    settings = {**BRIEF, "token_file": str(place / "token")}
    with running(directory, sink=settings, sensor={"rate": 20}) as (node, sink):
        node.await_delivered(10)
        with contextlib.ExitStack() as stack:
            stack.enter_context(dead_mount(place))
            pids = {name: node.pids()[name] for name in ("sender-1", "sender-2", "retrier")}
            node.may_die.update(pids)  # and so may those that come in their places
            yield node, sink, pids, stack.close


@pytest.fixture(scope="module")
def robbed(tmp_path_factory):
    """A node whose sender was stopped in a request, its supervisor too, and its claim taken."""
    directory = tmp_path_factory.mktemp("robbed")
    with running(directory, sink=BRIEF, process={"senders": 1}) as (node, sink):
        node.await_delivered(10)
        sink.script(hang(store="before"))
        await_hanging(sink)
        pids = [node.pids()[name] for name in ("supervisor", "sender-1")]
        for pid in pids:
            proc.send(pid, signal.SIGSTOP)
        since = time.monotonic()
        sink.release()  # the answer waits for the sender
        ((batch, owner),) = node.rows("SELECT first_id, owner FROM batch WHERE status = 'SENDING'")
        assert int(owner.split(":")[2]) == pids[1]
        # As if the retrier could not see that its owner lives.
        with node.writing() as connection:
            connection.execute("UPDATE batch SET owner = 'sender:gone:1:1' WHERE owner IS NOT NULL")
        yield node, sink, pids, since, batch


@pytest.mark.usefixtures("stopped", "hung", "robbed")
def test_half_a_minute_of_torture_breaks_no_promise(tmp_path):
    said = []
    good = torture(SECONDS, SEED, tmp_path, said.append)
    print("\n".join(said))
    assert good
    assert any("kill all" in line for line in said)


def test_any_role_that_is_stopped_too_long_is_killed_and_replaced(stopped):
    node, sink, pids = stopped
    for name, pid in pids.items():
        wait_until(lambda pid=pid: not proc.is_alive(pid), 90, f"{name} is killed", node.log)
        node.await_running(name, instead_of=pid)
        assert f"process_aborted name={name} it does not move" in node.log()
    node.await_captured(node.captured() + 20)
    told = {event["detail"] for event in node.events("process died")}
    assert told == {f"{name} was killed by SIGKILL" for name in pids}
    assert_nothing_lost(node, sink)
    judge(node.database, sink.database).assert_good()
    assert node.dropped() > 20 * 25
    assert abs(unaccounted_ticks(node.database, {"temperature": 20})) <= 3


def test_network_processes_that_hang_in_a_system_call_are_killed_and_capture_does_not_notice(hung):
    node, sink, pids, mend = hung
    for name, pid in pids.items():
        # Who waits for another's look into the same directory dies only when that one is done.
        wait_until(lambda pid=pid: not proc.is_alive(pid), 90, f"{name} is killed", node.log)
        assert f"process_aborted name={name} it does not move" in node.log()
    assert node.captured() > sink.count() + 20 * 25
    mend()
    assert_nothing_lost(node, sink)
    judge(node.database, sink.database).assert_good()
    assert_on_grid(node.times_us(), node.rate)
    assert node.dropped() == 0


def test_a_sender_that_lost_its_claim_while_it_was_stopped_changes_nothing(robbed):
    node, sink, pids, since, batch = robbed
    batch_range = (
        f"SELECT status, attempts, settled_at, last_id FROM batch WHERE first_id = {batch}"
    )
    wait_until(lambda: node.rows(batch_range)[0][0] == "SENT", what="the retrier has sent it")
    before = node.rows(batch_range)
    assert before[0][1] == 2
    wait_until(lambda: time.monotonic() > since + LIMIT_SECONDS, 90, "it was stopped too long")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    wait_until(
        lambda: f"claim_lost batch={batch}-" in node.log(), what="it says so", detail=node.log
    )
    assert node.rows(batch_range) == before
    assert node.one("SELECT state FROM sink") == "UP"
    assert [node.pids()[name] for name in ("supervisor", "sender-1")] == pids
    sink.behave(ok())
    assert_nothing_lost(node, sink)
    verdict = judge(node.database, sink.database)
    verdict.assert_good()
    assert verdict.stored_twice == node.wire_ids(f"id BETWEEN {batch} AND {before[0][3]}")
