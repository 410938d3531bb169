"""P2, P4: a sender killed anywhere between its claim and its record of the answer."""

import contextlib
import json
import socket
from collections.abc import Iterator

from crash.node import Node, assert_nothing_lost, await_hanging, running
from sinks import SinkProcess, hang, ok
from waiting import wait_until

ONE_SENDER = {"senders": 1}


def keys_by_id(sink: SinkProcess) -> dict[str, set[str | None]]:
    found: dict[str, set[str | None]] = {}
    for copy in sink.messages():
        found.setdefault(copy.id, set()).add(copy.key)
    return found


@contextlib.contextmanager
def deaf(port: int) -> Iterator[None]:
    """The port listens, but its queue is full: who connects waits, and never writes a byte."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield


def claimed(node: Node) -> bool:
    return bool(node.one("SELECT count(*) FROM batch WHERE status = 'SENDING'"))


def test_a_sender_killed_between_claim_and_request_loses_nothing(tmp_path):
    with SinkProcess(tmp_path) as sink:
        sink.kill()
        with Node(tmp_path / "node", sink={"url": sink.url}, process=ONE_SENDER) as node:
            with deaf(sink.port):
                node.start()
                wait_until(lambda: claimed(node), what="a batch is claimed")
                sender = node.kill("sender-1")
                assert claimed(node)
            sink.start()
            node.await_running("sender-1", instead_of=sender)
            node.await_delivered()
            assert sink.repeated_ids() == set()
            assert_nothing_lost(node, sink)


def test_a_sender_killed_after_the_sink_stored_repeats_the_same_ids_under_the_same_key(tmp_path):
    with running(tmp_path, process=ONE_SENDER) as (node, sink):
        node.await_delivered(10)
        sink.behave(hang(store="before"))
        await_hanging(sink)
        batch = node.one("SELECT first_id FROM batch WHERE status = 'SENDING'")
        sink.behave(ok())
        node.kill("sender-1")
        node.await_delivered()
        repeated = sink.repeated_ids()
        assert repeated & node.wire_ids(f"id = {batch}")
        assert all(len(keys) == 1 for keys in keys_by_id(sink).values())
        assert_nothing_lost(node, sink)


def test_a_sender_killed_between_the_answer_and_its_record_repeats_the_same_ids(tmp_path):
    with running(tmp_path, process=ONE_SENDER) as (node, sink):
        node.await_delivered(10)
        sink.behave(hang(store="before"))
        await_hanging(sink)
        sender = node.pids()["sender-1"]
        sink.behave(ok())
        with node.locked():
            sink.release()
            wait_until(lambda: node.queues(sender), what="the sender waits to record the answer")
            node.kill("sender-1")
            assert claimed(node)
        node.await_delivered()
        assert sink.repeated_ids()
        assert all(len(keys) == 1 for keys in keys_by_id(sink).values())
        assert_nothing_lost(node, sink)


def test_a_killed_sender_leaves_the_rest_of_the_pool_delivering(tmp_path):
    with running(tmp_path, process={"senders": 2}) as (node, sink):
        sink.script(hang(store="before"))
        await_hanging(sink)
        # The other sender may have a claim too, not sent yet.
        (met,) = (request for request in sink.requests() if request.behaviour.hang)
        first = int(json.loads(met.body)[0]["id"].rpartition("-")[2])
        claim = "SELECT owner FROM batch WHERE first_id = ?"
        hung = int(node.one(claim, first).split(":")[2])
        (name,) = (name for name, pid in node.pids().items() if pid == hung)
        node.kill(name)
        sent = sink.count()
        wait_until(lambda: sink.count() > sent + 10, what="the other sender delivers")
        assert name not in node.pids()
        assert_nothing_lost(node, sink)
