"""Ctrl-C at any moment of any command: it ends with 130, in silence, and nothing is half done."""

import random
import signal
import subprocess
import time

import pytest
from checker import judge
from crash.node import Node, running

COMMANDS = ("status", "check", "messages", "history", "audit", "requeue --dead", "reload")
TIMES = 12
LONGEST_SECONDS = 0.6
# A shell shows 130 for the last one too: before our code begins, and after it has ended.
ENDS = (0, 130, -signal.SIGINT)
# What Python does with one before it has come to our code is its own; so it ignores those.
PREFIX = ("env", "--ignore-signal=INT")


def interrupt(node: Node, command: str, after: float) -> "subprocess.CompletedProcess[str]":
    """As a terminal does: the whole group of the command."""
    with node.background(*command.split()) as process:
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, said)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_interrupted_says_nothing_of_it(tmp_path, command):
    chance = random.Random(command)
    with running(tmp_path) as (node, sink):
        node.prefix = PREFIX
        node.await_delivered(5)
        for _ in range(TIMES):
            done = interrupt(node, command, chance.uniform(0.0, LONGEST_SECONDS))
            assert done.returncode in ENDS, done
            assert "Traceback" not in done.stdout, done
        node.await_delivered()
        # Of a node that runs the sink has what the database, read before, has not.
        node.prefix = ()
        node.stop()
        judge(node.database, sink.database).assert_good()


def test_a_start_and_a_stop_that_are_interrupted_can_be_given_again(tmp_path):
    chance = random.Random("start and stop")
    with Node(tmp_path / "node", prefix=PREFIX) as node:
        for _ in range(TIMES):
            for command in ("start", "stop"):
                done = interrupt(node, command, chance.uniform(0.0, LONGEST_SECONDS))
                assert done.returncode in ENDS, done
                assert "Traceback" not in done.stdout, done
                node.run(command)
        assert node.run("audit").returncode == 0
