"""The scripts of a checkout: they explain themselves, and leave a running node alone."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
COMMANDS = ("bench", "demo", "environment", "mutants", "sensor-node-ctl", "test", "torture")
# What a fresh machine's python3 has, and the demo's own second file.
ALLOWED = {*sys.stdlib_module_names, "demo_screen"} - {"sqlite3"}


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    texts = [str(part) for part in command]
    return subprocess.run(texts, capture_output=True, text=True, timeout=60, **options)


def imported(file: Path) -> set[str]:
    """The top-level names of all modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.fixture
def checkout(tmp_path):
    """A copy of the checkout whose .venv is this Python, so that nothing is installed."""
    for name in ("benchmarks", "scripts", "sensor_node"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("config.ini", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    # Not what is tested here; it would ask PyPI.
    (tmp_path / "scripts" / "environment").write_text("")
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    libraries = sysconfig.get_path("purelib")
    python = binaries / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH=$PYTHONPATH:{libraries} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_script_is_executable_and_explains_itself(name, tmp_path):
    assert os.access(SCRIPTS / name, os.X_OK)

    python = [sys.executable] if "python" in (SCRIPTS / name).read_text().splitlines()[0] else []
    said = run(*python, SCRIPTS / name, "--help", cwd=tmp_path)

    assert said.returncode == 0, said.stderr
    assert name in said.stdout


@pytest.mark.parametrize("name", ["demo", "demo_screen.py", "environment"])
def test_the_demo_needs_nothing_but_python_and_opens_no_database(name):
    assert imported(SCRIPTS / name) <= ALLOWED


def test_the_demo_refuses_while_the_node_of_the_checkout_runs_and_leaves_it_alone(checkout):
    ctl = checkout / "scripts" / "sensor-node-ctl"
    try:
        started = run(ctl, "start", cwd="/")
        assert started.returncode == 0, started.stderr

        refused = run(sys.executable, checkout / "scripts" / "demo", "--seconds", "15", cwd="/")

        assert refused.returncode == 1
        assert "sensor-node-ctl stop" in refused.stderr
        assert run(ctl, "status", cwd="/").returncode == 0
    finally:
        run(ctl, "stop", cwd="/")
    assert not (checkout / "config.d").exists()


def test_the_demo_refuses_to_send_to_a_sink_that_is_not_its_own(checkout):
    config = checkout / "config.ini"
    config.write_text(config.read_text().replace("http://127.0.0.1:8470", "https://example.org"))

    refused = run(sys.executable, checkout / "scripts" / "demo", cwd="/")

    assert refused.returncode == 1
    assert "https://example.org" in refused.stderr
    assert not (checkout / "sensor-node-data").exists()


def test_the_checkouts_command_uses_the_checkouts_configuration_from_any_directory(checkout):
    environment = {key: value for key, value in os.environ.items() if key != "SENSOR_NODE_CONFIG"}

    said = run(checkout / "scripts" / "sensor-node-ctl", "check", cwd="/", env=environment)

    assert str(checkout / "config.ini") in said.stdout
