"""The configuration that holds is a running appliance's own, whatever its files say by now."""

import os
from dataclasses import replace

import pytest

from sensor_node.config.loader import Effective, load_config
from sensor_node.control import in_force
from sensor_node.core.errors import ConfigError, SensorNodeError
from sensor_node.supervision.pidfile import write_pid_file
from sensor_node.supervision.states import Report, read_report, write_report

GOOD = "[node]\nid = edge-01\n[sensor:room]\n[sink]\nurl = http://a.example/\n"


@pytest.fixture
def file(tmp_path):
    """A running node's; this process stands for its supervisor."""
    file = tmp_path / "config.ini"
    file.write_text(GOOD)
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d" / "more.ini").write_text("[sink]\ntoken_file = token\n")
    config = load_config(file)
    config.runtime_directory.mkdir()
    write_pid_file(config)
    settings = list(config.effective)
    report = Report(
        os.getpid(), "0.1.0", str(file), config.node_id, 0.0, True, 0, False, "", [], settings
    )
    assert write_report(config, report)
    return file


def test_it_is_the_files_where_nothing_has_changed(file) -> None:
    config = in_force.configuration(file)
    assert config == load_config(file)
    assert in_force.drift(config) == ("", "")


@pytest.mark.parametrize("text", [GOOD + "oops = 1\n", "garbage", "", None])
def test_a_mistake_made_later_does_not_hide_a_running_node(file, text) -> None:
    before = load_config(file)
    file.write_text(text) if text is not None else file.unlink()
    config = in_force.configuration(file)
    assert config == before
    mistake, command = in_force.drift(config)
    assert str(file) in mistake
    assert not command


def test_a_version_that_refuses_what_another_runs_by_says_so(file) -> None:
    config = load_config(file)
    report = read_report(config.runtime_directory)
    settings = [Effective("log", "level", "loudest", str(file))]
    assert write_report(config, replace(report, version="0.0.9", settings=settings))
    file.write_text(GOOD + "oops = 1\n")
    with pytest.raises(ConfigError) as refused:
        in_force.configuration(file)
    assert "oops: unknown option" in refused.value.lines[0]
    assert refused.value.lines[1].startswith("version 0.0.9 runs by what it read before; this is ")
    with pytest.raises(SensorNodeError, match=r"version 0\.0\.9 runs.*sensor-node-ctl restart"):
        in_force.insist_on_one_version(config)


def test_an_edit_is_no_news_to_a_running_node_before_its_reload(file) -> None:
    file.write_text(GOOD.replace("a.example", "b.example") + "[storage]\npath = other.db\n")
    config = in_force.configuration(file)
    assert config.sink.url == "http://a.example/"
    assert config.storage.path.name == "telemetry.db"
    assert in_force.drift(config) == ("", "restart")


def test_what_a_reload_takes_is_news_for_a_reload(file) -> None:
    config = in_force.configuration(file)
    file.write_text(GOOD.replace("a.example", "b.example"))
    assert in_force.drift(config) == ("", "reload")


def test_more_than_one_mistake_is_one_line(file) -> None:
    before = in_force.configuration(file)
    file.write_text(GOOD + "oops = 1\nouch = 2\n")
    mistake, _ = in_force.drift(before)
    assert mistake.endswith("(and 1 more)")


def test_of_a_node_that_does_not_run_it_is_the_files(file) -> None:
    before = load_config(file)
    (before.runtime_directory / "sensor-node.pid").unlink()
    file.write_text(GOOD.replace("a.example", "b.example"))
    assert in_force.configuration(file).sink.url == "http://b.example/"
    file.write_text("garbage")
    with pytest.raises(ConfigError):
        in_force.configuration(file)
