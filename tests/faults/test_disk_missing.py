"""A database on a disk that is not mounted: no other one is begun on the disk below it."""

from crash.node import Node, assert_nothing_lost
from faults.disks import disk, needs_disks
from sinks import SinkProcess


@needs_disks
def test_a_node_does_not_start_without_its_disk_and_goes_on_with_it(tmp_path):
    with disk(tmp_path / "disk", 10) as card, SinkProcess(tmp_path) as sink:
        place = card.path / "node" / "telemetry.db"
        place.parent.mkdir()
        with Node(tmp_path / "node", storage={"path": place}, sink={"url": sink.url}) as node:
            node.start()
            node.await_captured(20)
            node.stop()
            card.unmount()
            for command in ("start", "run"):
                said = node.run(command, status=1).stderr
                assert f"{card.path}: is not mounted" in said
                assert said.count("\n") == 1
            assert not list(card.path.iterdir()), "nothing is made where the disk belongs"
            card.mount()
            node.start()
            assert_nothing_lost(node, sink)


@needs_disks
def test_what_was_removed_below_the_disk_is_made_again(tmp_path):
    with disk(tmp_path / "disk", 10) as card:
        place = card.path / "node" / "telemetry.db"
        place.parent.mkdir()
        with Node(tmp_path / "node", storage={"path": place}) as node:
            node.start()
            node.await_captured(1)
            node.stop()
            for file in place.parent.iterdir():
                file.unlink()
            place.parent.rmdir()
            node.start()
            node.await_captured(1)


def test_a_directory_that_never_was_is_not_made(tmp_path):
    place = tmp_path / "card" / "node" / "telemetry.db"
    with Node(tmp_path / "node", storage={"path": place}) as node:
        said = node.run("start", status=1).stderr
        assert f"{place.parent}: there is no such directory; mount its disk, or make it" in said
        assert not place.parent.parent.exists()
        place.parent.mkdir(parents=True)
        node.start()
        node.await_captured(1)
