"""A source is its module and its row: the configuration, `check` and capture know it by these."""

import subprocess
import sys
from pathlib import Path

import pytest

from sensor_node.config.loader import load_config
from sensor_node.config.schema import sensor_options
from sensor_node.sensors import SOURCES, open_source

PROCESS_SECONDS = 60
TIDE = """
from dataclasses import dataclass

from sensor_node.core.model import Reading


@dataclass(frozen=True)
class TideSettings:
    harbour: str
    timeout: float


def open_source(sensor, directory):
    return TideSource(sensor.name, TideSettings(**sensor.settings))


class TideSource:
    def __init__(self, name, settings):
        self.name, self.settings = name, settings

    def read(self, first_tick, timestamps_us):
        return [Reading(f"{self.name} {self.settings.harbour}", self.settings.timeout, 7)]

    def close(self):
        pass
"""
# The program with one more row, whose `timeout` is another than that of `command`.
WITH_TIDE = """
import sys
from pathlib import Path

from sensor_node import sensors
from sensor_node.core.options import NAME, Option, number
from sensor_node.sensors.source import SourceType


def check(settings):
    if settings["harbour"] == "Basel":
        yield "harbour", "one at the sea"


sensors.SOURCES += (
    SourceType(
        "tide",
        "tide",
        max_rate=2.0,
        options=(
            Option("sensor", "harbour", NAME, "Dover", "Where it is measured."),
            Option("sensor", "timeout", number(1, 9), "3", "In tries."),
        ),
        check=check,
    ),
)
"""
CHECK = """
from sensor_node.__main__ import main

sys.exit(main())
"""
READ = """
from sensor_node.config.loader import load_config

config = load_config(Path(sys.argv[1]))
sensors.prepare(config.sensors)
for sensor in config.sensors:
    source = sensors.open_source(sensor, config.runtime_directory)
    for reading in source.read(0, [1_000]):
        print(sensor.name, sensor.source.name, sensor.is_simulated, reading)
"""


@pytest.fixture
def run(tmp_path: Path):
    """A program that knows one source more, with arguments."""
    (tmp_path / "tide.py").write_text(TIDE)

    def run_program(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "program.py"
        file.write_text(WITH_TIDE + program)
        command = [sys.executable, str(file), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS)

    return run_program


@pytest.fixture
def check(tmp_path: Path, run):
    """What `check` says about sections: its lines, without the file's name."""

    def lines(text: str) -> list[str]:
        file = tmp_path / "config.ini"
        file.write_text(text)
        done = run(CHECK, "-c", str(file), "check")
        assert done.returncode in (0, 78), done.stderr
        said = (done.stdout + done.stderr).splitlines()
        return [line.removeprefix("sensor-node-ctl: ").replace(f"{file}: ", "") for line in said]

    return lines


class TestARowAndAModuleAlone:
    def test_make_a_source_that_gives_readings(self, tmp_path, run) -> None:
        file = tmp_path / "config.ini"
        file.write_text(
            "[sensor:sea]\nsource = tide\nharbour = Hull\n[sensor:room]\nsource = host\n"
        )
        done = run(READ, str(file))
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.splitlines()
        assert first == "sea tide False Reading(name='sea Hull', value=3.0, timestamp_us=7)"
        assert second.startswith("room host False Reading(name='room'")

    def test_make_one_that_check_accepts(self, check) -> None:
        assert check("[sensor:sea]\nsource = tide\nrate = 2\n")[0] == "good, 1 sensor"

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("source = tide\nrate = 3", "rate = '3': want at most 2 with source = tide"),
            ("source = tide\ntimeout = 10s", "timeout = '10s': want a number from 1 to 9"),
            ("source = tide\nharbour = Basel", "harbour = 'Basel': want one at the sea"),
            ("source = tide\nmetric = cpu", "metric = 'cpu': want it only with source = host"),
            ("harbour = Hull", "harbour = 'Hull': want it only with source = tide"),
            ("timeout = 5", "timeout = '5': want it only with source = command or tide"),
            ("source = moon", "source = 'moon': want one of mock, host, command, tide"),
        ],
    )
    def test_have_their_mistakes_told(self, check, text, line) -> None:
        assert check(f"[sensor:sea]\n{text}\n") == [f"[sensor:sea] {line}"]


def test_no_name_is_in_the_table_twice() -> None:
    assert len({row.name for row in SOURCES}) == len(SOURCES)


@pytest.mark.parametrize("row", SOURCES, ids=lambda row: row.name)
class TestEachSource:
    def sensor(self, row, directory: Path):
        file = directory / "config.ini"
        own = "command = echo 1\n" if row.name == "command" else ""
        file.write_text(f"[sensor:room]\nsource = {row.name}\n{own}")
        return load_config(file).sensors[0]

    def test_opens_reads_and_closes(self, row, tmp_path) -> None:
        source = open_source(self.sensor(row, tmp_path), tmp_path)
        assert len(source.read(0, [1_000])) == 1
        source.close()

    def test_is_told_all_its_own_options_and_cannot_change_them(self, row, tmp_path) -> None:
        settings = self.sensor(row, tmp_path).settings
        assert set(settings) == {option.name for option in row.options}
        with pytest.raises(TypeError):
            settings["name"] = "another"

    def test_has_no_option_that_every_sensor_has(self, row) -> None:
        assert not {option.name for option in row.options} & set(sensor_options(""))

    def test_is_not_loaded_before_a_sensor_of_it_is(self, row) -> None:
        program = "import sys, sensor_node.processes.sensor_service; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=PROCESS_SECONDS,
            check=True,
        )
        assert row.module not in done.stdout.split()
