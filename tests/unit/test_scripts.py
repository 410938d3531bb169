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
COMMANDS = (
    *("bench", "check", "demo", "environment", "mutants", "sensor-node-ctl", "test"),
    "test-matrix",
    "torture",
)
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
def checkout(tmp_path, monkeypatch):
    """A copy of the checkout whose .venv is this Python, so that nothing is installed."""
    for name in ("benchmarks", "scripts", "sensor_node"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("config.ini", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    # Not what is tested here; it would ask PyPI.
    (tmp_path / "scripts" / "environment").write_text("")
    monkeypatch.delenv("SENSOR_NODE_VENV", raising=False)
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


@pytest.mark.parametrize("name", ["check", "demo", "demo_screen.py", "environment"])
def test_what_runs_before_there_is_an_environment_needs_nothing_but_python(name):
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


class Clone:
    """A clone, away from its main branch. A tool only fails, while .venv has a file TOOL-fails."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("python", "ruff", "mypy"):
            tool = directory / ".venv" / "bin" / name
            tool.write_text(f"#!/bin/sh\n[ ! -e {directory}/.venv/{name}-fails ]\n")
            tool.chmod(0o755)
        shutil.copytree(ROOT / "tests" / "unit", directory / "tests" / "unit")
        shutil.copy(ROOT / ".gitignore", directory)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit()
        self.git("checkout", "--quiet", "-b", "work")

    def git(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        who = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
        # Whatever git runs these tests in its hook.
        environment = {key: value for key, value in os.environ.items() if key[:4] != "GIT_"}
        return run("git", *who, *arguments, cwd=self.directory, env=environment)

    def commit(self) -> None:
        self.git("add", "--all")
        done = self.git("commit", "--quiet", "--no-verify", "--message=Change something")
        assert done.returncode == 0, done.stderr

    def change(self, name: str) -> None:
        file = self.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as text:
            text.write("# changed\n")

    def tests(self) -> list[str]:
        """Those that scripts/check would run, from any directory."""
        done = run(sys.executable, self.directory / "scripts" / "check", cwd="/")
        assert done.returncode == 0, done.stderr
        [words] = [line.split() for line in done.stdout.splitlines() if "pytest" in line]
        names = words[words.index("loadfile") + 1 :]
        missing = [name for name in names if not (ROOT / name).exists()]
        assert not missing
        return names


@pytest.fixture
def clone(checkout):
    if not shutil.which("git"):
        pytest.skip("needs git")
    return Clone(checkout)


class TestCheck:
    @pytest.mark.parametrize(
        ("changed", "tests"),
        [
            ("sensor_node/core/model.py", ["tests/unit/core", "tests/unit/test_layout.py"]),
            (
                "sensor_node/storage/queue/claiming.py",
                ["tests/unit/storage/queue", "tests/unit/test_layout.py"],
            ),
            ("sensor_node/__init__.py", ["tests/unit/test_layout.py"]),
            ("benchmarks/trial.py", ["tests/unit/benchmarks", "tests/unit/test_layout.py"]),
            ("scripts/demo", ["tests/unit/test_scripts.py"]),
            ("packaging/man/new.1", ["tests/unit/test_documents.py"]),
            ("tests/unit/core/test_schedule.py", ["tests/unit/core/test_schedule.py"]),
        ],
    )
    def test_runs_the_tests_of_what_has_changed(self, clone, changed, tests):
        clone.change(changed)
        assert clone.tests() == tests
        clone.commit()
        assert clone.tests() == tests, "of what main does not have"

    def test_takes_together_what_several_changes_touch(self, clone):
        clone.change("sensor_node/storage/repository.py")
        clone.commit()
        clone.change("sensor_node/storage/queue/claiming.py")
        (clone.directory / "tests/unit/core/test_schedule.py").unlink()
        assert clone.tests() == ["tests/unit/storage", "tests/unit/test_layout.py"]

    def test_runs_some_of_everything_where_nothing_can_be_told(self, clone):
        unchanged = clone.tests()
        folders = {Path(name).parts[2] for name in unchanged}
        assert folders > {"core", "config", "delivery", "processes", "storage", "supervision"}
        clone.change("tests/unit/storage_fixtures.py")
        assert clone.tests() == unchanged
        shutil.rmtree(clone.directory / ".git")
        assert clone.tests() == unchanged

    def test_runs_some_of_everything_where_much_has_changed(self, clone):
        few = clone.tests()
        for folder in ("core", "config", "control", "processes"):
            clone.change(f"sensor_node/{folder}/__init__.py")
        assert clone.tests() == few

    def test_as_a_hook_lets_git_commit_only_what_passes(self, clone):
        clone.git("config", "core.hooksPath", ".git/hooks")
        link = clone.directory / ".git" / "hooks" / "pre-commit"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to("../../scripts/check")
        clone.change("sensor_node/core/model.py")

        for tool in ("ruff", "mypy", "python"):
            fails = clone.directory / ".venv" / f"{tool}-fails"
            fails.touch()
            assert clone.git("commit", "--all", "--message=Bad").returncode, tool
            fails.unlink()
        done = clone.git("commit", "--all", "--message=Good")

        assert done.returncode == 0, done.stderr
        assert clone.git("log", "--format=%s", "main..").stdout == "Good\n"
