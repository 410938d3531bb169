"""One table knows the roles: whatever has a row is started, watched, and stopped in its turn."""

import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

import sensor_node
from sensor_node.config.loader import load_config
from sensor_node.core.errors import ConfigError
from sensor_node.supervision.roles import ROLES, children, most_children, stop_groups
from sensor_node.supervision.states import read_report

# An appliance with one role more: its row, and a service that works once a second.
PROGRAM = """
import sys
from sensor_node.config.loader import load_config
from sensor_node.supervision import appliance
from sensor_node.supervision.roles import ROLES, Role

ROLES["extra"] = Role(
    "extra", "extra_service:open_service", oom_score=300, stop_order=4, stop_seconds=5.0
)
sys.exit(appliance.run(load_config(sys.argv[1])))
"""
SERVICE = """
class Extra:
    def __init__(self, context):
        self.repository = context.open_repository(power_safe=False)
        self.seen = context.config.file.with_name("seen")

    def step(self, now):
        self.seen.write_text("step")
        return 1.0

    def finish(self, now):
        self.repository.close()
        self.seen.write_text("finished")

open_service = Extra
"""


def config_with(tmp_path, text):
    (tmp_path / "config.ini").write_text(f"[sensor:room]\n{text}")
    return load_config(tmp_path / "config.ini")


class TestAnExtraRow:
    @pytest.fixture
    def appliance(self, tmp_path):
        (tmp_path / "extra_service.py").write_text(SERVICE)
        config = config_with(tmp_path, "[sink]\nurl = http://127.0.0.1:9/\n")
        command = [sys.executable, "-c", PROGRAM, str(config.file)]
        path = os.pathsep.join([str(tmp_path), str(Path(sensor_node.__file__).parents[1])])
        environment = os.environ | {"PYTHONPATH": path}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        yield process, config
        process.kill()
        process.communicate()

    @staticmethod
    def running(config):
        """The extra process's report, once it is RUNNING."""
        report = read_report(config.runtime_directory)
        extra = [child for child in report.processes if child.name == "extra"] if report else []
        return extra[0] if extra and extra[0].state == "RUNNING" else None

    def test_is_started_started_again_and_stopped_last(self, appliance, tmp_path) -> None:
        process, config = appliance
        first = wait_until(lambda: self.running(config), 30, "the extra role is running")
        score = Path(f"/proc/{first.pid}/oom_score_adj").read_text()
        wait_until((tmp_path / "seen").exists, 30, "its service works")

        os.kill(first.pid, signal.SIGKILL)
        wait_until(
            lambda: (now := self.running(config)) and now.pid != first.pid and now.restarts == 1,
            30,
            "another one is running",
        )
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)

        assert process.returncode == 0, log
        assert "process_died extra was killed by SIGKILL" in log
        assert (tmp_path / "seen").read_text() == "finished"
        assert first.role == "extra"
        assert int(score) >= 300


class TestTheTable:
    def test_names_one_role_that_captures_and_it_comes_and_goes_first(self) -> None:
        [capturing] = [role for role in ROLES.values() if role.captures]
        assert next(iter(ROLES.values())) is capturing
        assert stop_groups()[0] == [capturing]

    def test_has_a_place_for_as_many_as_the_configuration_may_want(self, tmp_path) -> None:
        config = config_with(tmp_path, "[process]\nsenders = 64\n")
        assert len(children(config)) == most_children() == 67
        with pytest.raises(ConfigError):
            config_with(tmp_path, "[process]\nsenders = 65\n")

    def test_numbers_only_those_of_which_there_may_be_several(self, tmp_path) -> None:
        config = config_with(tmp_path, "[process]\nsenders = 1\n")
        assert list(children(config)) == ["generator", "sender-1", "retrier", "housekeeper"]

    @pytest.mark.parametrize("role", ROLES.values(), ids=ROLES)
    def test_says_where_each_service_is_opened(self, role) -> None:
        assert callable(role.load_service())

    def test_ends_network_processes_before_capture_when_memory_is_short(self) -> None:
        scores = {name: role.oom_score for name, role in ROLES.items()}
        assert scores["generator"] < scores["housekeeper"] < scores["sender"] == scores["retrier"]


def test_nothing_but_the_table_knows_a_role_by_its_name() -> None:
    of_a_role = re.compile(rf"({'|'.join(ROLES)})(-|:|$)")
    package = Path(sensor_node.__file__).parent
    places = [
        f"{file.relative_to(package)}:{node.lineno}"
        for file in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and of_a_role.match(node.value)
    ]
    assert {place.split(":")[0] for place in places} == {"supervision/roles.py"}, places
    assert len(places) == len(ROLES)
