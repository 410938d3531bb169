"""Secrets: a token or a password is nowhere but in its file and in the header that it is for."""

import base64
import html
import itertools
import json
import os
import signal
from pathlib import Path
from urllib.parse import quote

import pytest
from crash import proc
from crash.node import Node
from faults.hostile import HostileSink, everything_written
from waiting import wait_until

# With what JSON, HTML and URLs write in another way. The first part would be left of it anyhow.
CANARY = "CANARY8f3a"
SECRET = f'{CANARY}/+&"=<tail>'
COMMANDS = ("check --print", "status", "status --json", "messages", "show 1", "history", "audit")


def spoken(headers):
    """What the node has shown, in all the ways a sink may repeat it."""
    shown = headers["Authorization"]
    secret = shown.split(" ", 1)[1]
    if shown.startswith("Basic"):
        secret = base64.b64decode(secret).decode()
    ways = [shown, secret, json.dumps(secret), json.dumps(secret).replace("/", "\\/")]
    ways += [html.escape(secret), quote(secret, safe=""), f"{secret[:4]}\x00\x1b{secret[4:]}"]
    return ways


def echo(status, way):
    def answer(headers):
        said = spoken(headers)[way].encode("latin-1", "replace")
        reason = said.replace(b"\n", b"")
        head = b"HTTP/1.1 %d %s\r\nLocation: http://other/%s\r\nContent-Length: %d\r\n\r\n"
        yield head % (status, reason, reason, len(said)) + said

    return answer


def assert_secret(text, what):
    """Neither the secret is in it, nor what a Basic header makes of it."""
    data = text if isinstance(text, bytes) else text.encode()
    pair = base64.b64encode(f"edge:{SECRET}".encode())
    for form in (CANARY.encode(), pair, base64.b64encode(SECRET.encode())):
        assert form not in data, (what, data[max(0, data.index(form) - 200) :][:400])


@pytest.mark.parametrize("kind", ["token", "password"])
def test_a_secret_is_in_no_file_no_output_and_no_process_whatever_the_sink_repeats(tmp_path, kind):
    file = tmp_path / "node" / "secret"
    file.parent.mkdir()
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    options = {"token_file": file} if kind == "token" else {"password_file": file}
    if kind == "password":
        options["username"] = "edge"
    sensor = {
        "source": "command",
        "rate": 5,
        "command": f"env > {tmp_path}/node/environment; echo 1",
    }
    with (
        HostileSink() as sink,
        Node(
            tmp_path / "node",
            sensor=sensor,
            sink={"url": sink.url, **options},
            retry={"initial_delay": "20ms", "max_delay": "50ms"},
        ) as node,
    ):
        node.start()
        for status, way in itertools.product((401, 307), range(7)):
            sink.attack(echo(status, way))
            assert_secret(node.one("SELECT reason || hint FROM sink"), (status, way))
        for command in COMMANDS if kind == "token" else ("status --json", "messages", "history"):
            done = node.run(*command.split(), status=None)
            assert_secret(done.stdout + done.stderr, command)
        pids = node.pids()
        for name, pid in pids.items():
            for what in ("cmdline", "environ", "comm"):
                assert_secret(Path(f"/proc/{pid}/{what}").read_bytes(), (name, what))
        # A process that is told to show its stack, and one that is to leave a core behind.
        proc.send(pids["retrier"], signal.SIGABRT)
        node.await_running("retrier", instead_of=pids["retrier"])
        wait_until(lambda: "Current thread" in node.log(), what="the stack is in the log")
        node.stop()
        assert "***" in node.log(), "the sink did repeat it, and it was seen"
        for written, content in everything_written(node.file.parent, file).items():
            assert_secret(content, written)


def test_no_process_that_knows_a_secret_leaves_a_core(tmp_path):
    with Node(tmp_path / "node", sink={"url": "http://127.0.0.1:9/"}) as node:
        node.start()
        for name, pid in node.pids().items():
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            core = next(line.split()[4:6] for line in limits if line.startswith("Max core"))
            assert core == ["0", "0"] or name == "supervisor", name


def test_a_password_in_a_url_is_refused_and_not_repeated(tmp_path):
    with Node(tmp_path / "node") as node:
        node.start()
        before = node.file.read_text()
        for url in (
            f"http://edge:{CANARY}@proxy:3128",
            f"http://edge:x/{CANARY}@proxy:3128",
            f"http://edge:x@{CANARY}@proxy:3128",
            f"edge:{CANARY}@proxy:3128",
            f"https:/edge:{CANARY}@proxy",
        ):
            node.file.write_text(before.replace("[sink]", f"[sink]\nproxy = {url}\nurl = {url}"))
            done = node.run("check", status=78)
            assert done.stderr.count("***@") == 2, done.stderr
            assert_secret(done.stderr, url)
        # By a signal, as systemd would: then the supervisor reads the file, and refuses it.
        node.file.write_text(before.replace("[sink]", f"[sink]\nproxy = http://x:{CANARY}@p"))
        os.kill(node.pids()["supervisor"], signal.SIGHUP)
        wait_until(lambda: "reload_refused" in node.log(), what="it is refused", detail=node.log)
        said = node.run("status", status=None).stdout
        assert "***@" in said
        assert_secret(said, "status")
        node.file.write_text(before)
        node.stop()
        for written, content in everything_written(node.file.parent).items():
            assert_secret(content, written)
