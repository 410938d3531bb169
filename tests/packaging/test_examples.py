"""The examples of drop-ins do what they say."""

import pytest
from box import Box
from waiting import wait_until

EXAMPLES = "/usr/share/doc/sensor-node/examples"
DROP_INS = "/etc/systemd/system/sensor-node.service.d"
NAMES = ["hardware.conf", "only-the-sink.conf", "token.conf"]
PORT = 8472
# Answers each request, and keeps what it was authorized with.
LISTENER = f"""
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        with open("/run/authorized", "w") as file:
            file.write(self.headers.get("Authorization", "nothing"))
        self.send_response(204)
        self.end_headers()

HTTPServer(("127.0.0.1", {PORT}), Handler).serve_forever()
"""


def adopt(node: Box, name: str) -> None:
    node.run(f"mkdir -p {DROP_INS} && cp {EXAMPLES}/{name} {DROP_INS}")
    node.run("systemctl daemon-reload")


def test_there_is_no_other(installed: Box) -> None:
    assert installed.run(f"ls {EXAMPLES}").stdout.split() == NAMES


@pytest.mark.parametrize("name", ["hardware.conf", "only-the-sink.conf"])
def test_the_node_runs_with_it_and_delivers(running: Box, name: str) -> None:
    adopt(running, name)
    verified = running.run("systemd-analyze verify --man=no sensor-node.service", check=False)
    assert verified.stdout + verified.stderr == ""
    running.run("systemctl restart sensor-node")
    running.await_captured()
    assert running.assert_nothing_lost() > 0


def test_hardware_lets_commands_see_devices_that_the_sandbox_hides(running: Box) -> None:
    def devices() -> set[str]:
        pid = running.pids()["generator"]
        return set(running.run(f"nsenter --mount --target {pid} ls /dev").stdout.split())

    assert "console" not in devices()
    adopt(running, "hardware.conf")
    running.run("systemctl restart sensor-node")
    running.await_captured()
    assert "console" in devices()


def test_the_token_is_read_from_systemds_credentials_and_by_nobody_else(installed: Box) -> None:
    installed.write("/root/listener.py", LISTENER)
    installed.run("systemd-run --quiet --unit=listener python3 /root/listener.py")
    installed.run(
        "install -m 600 /dev/null /etc/sensor-node/token && echo s3cret >/etc/sensor-node/token"
    )
    installed.configure(
        f"[sink]\nurl = http://127.0.0.1:{PORT}/\ntoken_file = ${{CREDENTIALS_DIRECTORY}}/token\n"
    )
    adopt(installed, "token.conf")
    installed.ctl("start")
    authorized = "cat /run/authorized 2>/dev/null || true"
    wait_until(
        lambda: installed.run(authorized).stdout == "Bearer s3cret",
        what="the token arrives",
        detail=installed.story,
    )
    installed.await_delivered()
    assert installed.run("cat /etc/sensor-node/token", "sensor-node", check=False).returncode != 0
    said = installed.ctl("check", "--print").stdout + installed.ctl("status", "--json").stdout
    assert "s3cret" not in said + installed.journal()
