"""P1, P2: whatever the network does, in namespaces of the test's own."""

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from checker import judge
from crash.node import Node
from faults import name_server
from faults.networks import FAR, FAR_6, FAR_TOO, Network, needs_namespaces, network
from faults.outages import QUICK, assert_borne, assert_mended, verdict_of
from sinks import SinkProcess
from waiting import wait_until

pytestmark = needs_namespaces

LATE = "timed out after 0.4s"
HOST = "sink.example"


@pytest.fixture
def cable():
    with network() as made:
        yield made


@contextlib.contextmanager
def across(
    cable: Network,
    tmp_path: Path,
    host: str,
    prefix: Sequence[str] = (),
    name: str = "",
    **sections: dict[str, object],
):
    """A node at the edge, and its sink at that address of the far side, called by that name."""
    with SinkProcess(tmp_path, host=host, prefix=cable.far) as sink:
        url = sink.url.replace(host, name or host)
        sections = {**QUICK, **sections}
        sections["sink"] = {**sections["sink"], "url": url}
        with Node(tmp_path / "node", prefix=prefix or cable.edge, **sections) as node:
            node.start()
            yield node, sink


def test_a_black_hole_is_borne_and_so_is_a_cable_that_is_out(cable, tmp_path):
    """Packets vanish before a connection is made, then under one that is in use."""
    cable.swallow(FAR)
    with across(cable, tmp_path, FAR) as (node, sink):
        assert_borne(node, LATE)
        cable.deliver(FAR)
        assert_mended(node)
        cable.swallow(FAR)
        assert_borne(node, LATE)
        cable.deliver(FAR)
        assert_mended(node)
        cable.ip(0, "link", "set", "cable", "down")
        assert_borne(node, "network is unreachable")
        cable.ip(0, "link", "set", "cable", "up")
        assert_mended(node)
        verdict_of(node, sink)


def test_a_sink_that_has_only_ipv6_gets_everything(cable, tmp_path):
    with across(cable, tmp_path, FAR_6) as (node, sink):
        node.await_delivered(20)
        assert verdict_of(node, sink).stored_twice == set()


@contextlib.contextmanager
def naming(cable: Network, told: Path):
    """A name server on the far side."""
    program = [*cable.far, sys.executable, name_server.__file__, FAR, str(told)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def say(told: Path, address: str) -> None:
    """Whole or not at all: the name server reads it at any moment."""
    new = told.with_suffix(".new")
    new.write_text(address)
    new.replace(told)


def test_names_that_fail_block_and_change_are_borne_and_followed(cable, tmp_path):
    """A resolver would wait a minute for a name server that is silent; no request does."""
    told, resolv_conf = tmp_path / "address", tmp_path / "resolv.conf"
    resolv_conf.write_text(f"nameserver {FAR}\noptions timeout:2 attempts:30\n")
    say(told, "unknown")
    prefix = cable.resolving(resolv_conf)
    with naming(cable, told), across(cable, tmp_path, FAR_TOO, prefix, HOST) as (node, sink):
        assert_borne(node, f"name not found: {HOST}")
        say(told, "silent")
        assert_borne(node, LATE)
        # Nothing is at that address.
        say(told, FAR)
        assert_borne(node, "connection refused")
        say(told, FAR_TOO)
        assert_mended(node)
        wait_until(lambda: sink.count() > 20, what="it is the sink of that name")
        verdict_of(node, sink)


def test_a_link_too_slow_for_a_full_batch_carries_everything_in_smaller_ones(cable, tmp_path):
    """16 kB a second: a batch of 100 takes 0.9 s, and 0.5 s is all it has."""
    at_once = {"source": "command", "command": "seq 300", "rate": "1/h"}
    # Full batches only: a small one that happens to go through would show that the sink is well.
    options = {"timeout": "500ms", "batch_size": 100, "send_interval": "5s"}
    cable.slow_down(128)
    with across(cable, tmp_path, FAR, sensor=at_once, sink=options) as (node, sink):
        node.await_captured(300)
        node.await_delivered()
        node.stop()
        tried = [line for line in node.log().splitlines() if "batch_tried" in line]
        late = sum("timed out" in line for line in tried)
        assert 0 < late < 25, f"{late} of {len(tried)} requests took too long"
        judge(node.database, sink.database).assert_good()
