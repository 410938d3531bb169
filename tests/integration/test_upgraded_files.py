"""An upgrade replaces the files of a program that runs: it goes on with its own until it ends."""

import shutil
from pathlib import Path

from crash.node import Node
from sinks import SinkProcess

import sensor_node

OTHERS = 'raise SystemError("this is of another version")\n'


def test_a_node_whose_files_were_replaced_captures_delivers_and_replaces_its_dead(tmp_path):
    package = tmp_path / "program" / "sensor_node"
    shutil.copytree(Path(sensor_node.__file__).parent, package)
    with (
        SinkProcess(tmp_path) as sink,
        Node(tmp_path / "node", sink={"url": sink.url, "send_interval": "1h"}) as node,
    ):
        own = {"PYTHONPATH": str(package.parent)}
        node.variables |= own
        node.start()
        node.await_captured(1)
        assert not sink.requests(), "HTTP is still to be imported"
        shutil.rmtree(package)
        for module in Path(sensor_node.__file__).parent.rglob("*.py"):
            replaced = package / module.relative_to(Path(sensor_node.__file__).parent)
            replaced.parent.mkdir(exist_ok=True, parents=True)
            replaced.write_text(OTHERS)
        node.variables.clear()

        host = {"source": "host", "metric": "memory", "rate": 5}
        node.configure(sink={"send_interval": "0s"}, **{"sensor:memory": host})
        node.run("reload")
        node.await_delivered()
        for name in ("generator", "sender-1", "sender-2", "retrier", "housekeeper"):
            killed = node.kill(name)
            node.await_running(name, instead_of=killed)
            node.await_captured(node.captured() + 10)
            node.await_delivered()
        assert node.rows("SELECT count(*) FROM message WHERE name = 'memory'")[0][0] > 0
        assert "another version" not in node.log()
        deaths = node.events("process died")
        assert all("killed by SIGKILL" in event["detail"] for event in deaths), deaths
