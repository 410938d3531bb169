"""What the supervisor writes down about its children, others read whole or not at all."""

import errno
import json
from dataclasses import asdict, replace

import pytest

from sensor_node.config.loader import Effective
from sensor_node.supervision import states
from sensor_node.supervision.states import (
    ChildReport,
    ChildState,
    Outline,
    Report,
    read_outline,
    read_report,
    report_file,
    report_of,
    write_report,
)
from sensor_node.system.files import open_unlinked

CHILD = ChildReport(
    name="sender-1",
    role="sender",
    pid=812,
    owner="sender:boot:812:4711",
    state=ChildState.RUNNING.value,
    since=1_795_419_878.5,
    restarts=3,
    died_before=1.5,
    trouble="disk full",
    trouble_since=1.5,
)
REPORT = Report(
    pid=811,
    version="0.1.0",
    config="/etc/sensor-node/config.ini",
    node="edge-01",
    since=1_795_419_878.0,
    ready=True,
    reloads=2,
    stopping=False,
    problem="",
    processes=[CHILD, replace(CHILD, name="retrier", role="retrier", pid=None)],
    settings=[Effective("node", "id", "edge-01", "/etc/sensor-node/config.ini")],
)


def test_a_report_is_read_as_it_was_written(config) -> None:
    assert read_report(config.runtime_directory) is None
    assert write_report(config, REPORT)
    assert read_report(config.runtime_directory) == REPORT


def test_of_another_versions_report_its_outline_is_read(config) -> None:
    assert read_outline(config.runtime_directory, REPORT.pid) is None
    write_report(config, REPORT)
    file = report_file(config.runtime_directory)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": "9.0", "mood": "good"}))
    assert read_report(config.runtime_directory) is None
    outline = read_outline(config.runtime_directory, REPORT.pid)
    assert outline == Outline(REPORT.pid, "9.0", ready=True)


def test_the_report_of_the_run_before_is_not_this_ones(config) -> None:
    write_report(config, REPORT)
    for pid in (None, REPORT.pid + 1):
        assert report_of(config.runtime_directory, pid) is None
        assert read_outline(config.runtime_directory, pid) is None
    assert report_of(config.runtime_directory, REPORT.pid) == REPORT


@pytest.mark.parametrize("text", ["", "7", "[]", "{}", '{"pid": 9, "version": 9, "ready": true}'])
def test_what_is_no_report_has_no_outline(config, text) -> None:
    report_file(config.runtime_directory).write_text(text)
    assert read_outline(config.runtime_directory, 9) is None


def test_a_report_replaces_the_one_before_and_leaves_nothing_beside_it(config) -> None:
    write_report(config, REPORT)
    write_report(config, replace(REPORT, processes=[]))
    assert read_report(config.runtime_directory).processes == []
    assert [file.name for file in config.runtime_directory.iterdir()] == ["processes.json"]


def test_a_reader_never_sees_half_a_report(config, monkeypatch) -> None:
    write_report(config, REPORT)
    seen = []
    dumps = json.dumps

    def look_meanwhile(value):
        seen.append(read_report(config.runtime_directory))
        return dumps(value)

    monkeypatch.setattr(json, "dumps", look_meanwhile)
    write_report(config, replace(REPORT, pid=1))
    assert seen == [REPORT]


def test_a_full_disk_does_not_end_the_supervisor(config) -> None:
    write_report(config, REPORT)
    report_file(config.runtime_directory).with_suffix(
        ".new"
    ).mkdir()  # nothing can be written there
    assert not write_report(config, replace(REPORT, pid=1))
    assert read_report(config.runtime_directory) == REPORT


@pytest.mark.parametrize("problem", ["", "much longer than before " * 10])
def test_without_an_inode_for_another_file_the_report_is_written_over(
    config, monkeypatch, problem
) -> None:
    write_report(config, replace(REPORT, problem="some"))

    def only_what_is_there(file, mode="r"):
        if not file.exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return open_unlinked(file, mode)

    monkeypatch.setattr(states, "open_unlinked", only_what_is_there)
    assert write_report(config, replace(REPORT, problem=problem))
    assert read_report(config.runtime_directory) == replace(REPORT, problem=problem)
    report_file(config.runtime_directory).unlink()
    assert not write_report(config, REPORT)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"{}", b'{"processes": 1}', b'{"processes": [{}]}', b"\xff", b"1"],
)
def test_garbage_is_no_report(config, content) -> None:
    report_file(config.runtime_directory).write_bytes(content)
    assert read_report(config.runtime_directory) is None


def test_a_report_of_another_version_is_none(config) -> None:
    write_report(config, REPORT)
    values = json.loads(report_file(config.runtime_directory).read_text())
    report_file(config.runtime_directory).write_text(json.dumps({**values, "mood": "good"}))
    assert read_report(config.runtime_directory) is None
    del values["reloads"]
    report_file(config.runtime_directory).write_text(json.dumps(values))
    assert read_report(config.runtime_directory) is None


def test_the_states_of_a_child_are_those_that_status_shows() -> None:
    assert list(ChildState) == ["STARTING", "RUNNING", "BACKOFF", "STOPPING", "STOPPED"]


@pytest.mark.parametrize(
    "forged",
    [
        {"since": "yesterday"},
        {"since": None},
        {"since": float("nan")},
        {"since": -1.0},
        {"since": 1e300},
        {"pid": 0},
        {"pid": -1},
        {"pid": 10**30},
        {"problem": None},
        {"settings": [["sink", "url", 5, ""]]},
        {"processes": [{**asdict(CHILD), "pid": -1}]},
        {"processes": [{**asdict(CHILD), "name": 5}]},
    ],
)
def test_a_report_that_says_what_cannot_be_is_none(config, forged) -> None:
    report_file(config.runtime_directory).write_text(json.dumps({**asdict(REPORT), **forged}))
    assert read_report(config.runtime_directory) is None


@pytest.mark.parametrize("name", ["processes.json", "processes.new"])
def test_a_report_is_neither_read_nor_written_through_a_link(config, tmp_path, name) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(json.dumps(asdict(REPORT)))
    before = elsewhere.read_text()
    (config.runtime_directory / name).symlink_to(elsewhere)
    assert read_report(config.runtime_directory) is None
    write_report(config, replace(REPORT, pid=1))
    assert elsewhere.read_text() == before
