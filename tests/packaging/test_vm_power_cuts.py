"""A committed reading survives the loss of power, on a disk that forgets what was not flushed."""

import os
import random
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import image
import pytest
from box import DROP_IN
from power import LOAD, QUIET, Cut, FailingBox
from report import report
from sinks import ok
from waiting import wait_until

CUTS = 11
# A cut right after the kernel has written all that it had loses nothing.
MOST_TRIES = 4
CONNECTION = "/usr/lib/python3/dist-packages/sensor_node/storage/engine/connection.py"


def written(config: str) -> str:
    return f"printf %s {shlex.quote(config)} >{DROP_IN}"


UNITS = "sensor-node test-watch"
PREPARE = (
    f"{written(LOAD)} && systemctl enable {UNITS} && sync && systemctl start --no-block {UNITS}"
)
# Neither commits nor checkpoints wait for the disk any more.
TURN_DOWN = f"""sed -i 's/_synchronous = "FULL".*/_synchronous = "OFF"/' {CONNECTION} &&
grep -q '_synchronous = "OFF"' {CONNECTION} && {PREPARE}"""
# Readings, and those of them that are not SENT.
COUNT = """python3 -c 'import sqlite3
rows = sqlite3.connect("file:/var/lib/sensor-node/telemetry.db?mode=ro", uri=True)
print(*rows.execute("SELECT count(*), sum(status != \\"SENT\\") FROM message").fetchone())'"""


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("SENSOR_NODE_SEED") or time.time_ns() % 1_000_000)
    print(f"to repeat the choices: SENSOR_NODE_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def box(deb: Path, tmp_path: Path, rng: random.Random) -> Iterator[FailingBox]:
    with FailingBox(image.build(deb), tmp_path, rng) as box:
        yield box


def test_no_committed_reading_is_lost_by_power_cuts(box: FailingBox) -> None:
    cuts = []
    for number in range(1, CUTS + 1):
        cut = box.cut(PREPARE if number == 1 else "")
        cuts.append(cut)
        report(f"power cut {number}: {told(cut)}")
        assert_whole(cut, box.sink.stored_ids())
    report(f"power cuts: {CUTS}, committed readings lost: {sum(cut.lost for cut in cuts)}")
    assert_all_arrives(box, cuts[-1])


def test_with_durability_turned_down_the_same_cuts_lose_readings(box: FailingBox) -> None:
    for number in range(1, MOST_TRIES + 1):
        cut = box.cut(TURN_DOWN if number == 1 else "")
        report(f"power cut {number} with synchronous=OFF: {told(cut)}")
        if cut.lost or cut.found.integrity != "ok":
            return
    raise AssertionError("nothing was lost: this test could not fail")


def told(cut: Cut) -> str:
    found = cut.found
    return (
        f"{cut.how}; committed {cut.reported}, found {len(found.ids)}, lost {cut.lost},"
        f" SENT {len(found.sent)}, integrity {found.integrity}"
    )


def assert_whole(cut: Cut, stored: set[str]) -> None:
    found = cut.found
    assert found.integrity == "ok"
    assert found.audit, "unreadable"
    assert found.audit.returncode == 0, found.audit.stdout + found.audit.stderr
    assert cut.lost == 0
    assert found.ids == list(range(1, len(found.ids) + 1))
    # What is marked SENT is stored; nothing was sent that could be lost here and captured again.
    assert found.sent <= stored <= found.wire


def assert_all_arrives(box: FailingBox, last: Cut) -> None:
    """Boot once more, deliver, stop in order: at the sink is what was captured, without a gap."""
    box.sink.behave(ok())
    with box.boot() as vm:
        vm.run(f"systemctl stop test-watch; {written(QUIET)}; systemctl restart sensor-node")
        what = "everything is delivered"
        wait_until(lambda: vm.run(COUNT).stdout.split()[1] == "0", 90, what, box.sink.summary)
        vm.run("systemctl stop sensor-node")
        captured = int(vm.run(COUNT).stdout.split()[0])
        said = vm.run("sensor-node-ctl audit").stdout
    assert captured >= len(last.found.ids)
    assert box.sink.count() == captured, said
    assert box.sink.missing_numbers() == []
    assert box.sink.differing_ids() == set()
    report(f"after the last cut: {captured} captured, all stored by the sink, no gap; {said}")
