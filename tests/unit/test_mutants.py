"""scripts/mutants tells wrong code that tests notice from wrong code that none does."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.append(str(SCRIPTS))

from mutate import mutants  # noqa: E402

SMALL = '''"""Numbers."""

MOST = 5


def larger(a: int, b: int) -> int:
    """The larger one."""
    if a > b:
        return a
    return b
'''
TEST = """
from sensor_node.core.small import larger

def test_larger():
    assert larger(1, 2) == 2
    assert larger(2, 1) == 2
"""
SURVIVOR = "sensor_node/core/small.py:8: > → >=\n    if a > b:\n"
EQUIVALENT = """
[[equivalent]]
file = 'sensor_node/core/small.py'
line = 'if a > b:'
change = '> → >='
reason = 'of two that are equal either is the larger'
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout of one module with its test, whose .venv is this Python."""
    for name, text in {
        "sensor_node/__init__.py": "",
        "sensor_node/core/__init__.py": "",
        "sensor_node/core/small.py": SMALL,
        "tests/unit/core/test_small.py": TEST,
        "scripts/environment": "",
        ".venv/bin/python": f"#!/bin/sh\nPYTHONPATH=$PYTHONPATH:{sysconfig.get_path('purelib')} "
        f'exec {sys.executable} "$@"\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    for name in ("mutants", "mutate.py"):
        shutil.copy(SCRIPTS / name, tmp_path / "scripts")
    return tmp_path


def try_mutants(checkout, *arguments):
    command = [sys.executable, checkout / "scripts" / "mutants", "--seed", "1", "--minutes", "5"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)


def test_a_mistake_that_no_test_notices_is_shown_until_it_is_listed_as_none(checkout):
    done = try_mutants(checkout)
    assert done.returncode == 1, done.stderr
    assert SURVIVOR in done.stdout
    assert done.stdout.endswith("4 of 5 killed, 80.0%; --seed 1\n")
    assert (checkout / "sensor_node" / "core" / "small.py").read_text() == SMALL

    (checkout / "tests" / "mutants_equivalent.toml").write_text(EQUIVALENT)
    done = try_mutants(checkout, checkout / "sensor_node" / "core" / "small.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("4 of 4 killed, 100.0%; --seed 1\n")


def test_tests_that_fail_by_themselves_kill_nothing(checkout):
    (checkout / "tests" / "unit" / "core" / "test_small.py").write_text("assert False")
    done = try_mutants(checkout)
    assert done.returncode == 2
    assert "without any mistake these tests fail: tests/unit/core/test_small.py" in done.stderr


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("a = b and c", {"and → or"}),
        ("a = (b) <= c", {"<= → <"}),
        ("a = min(b, not c)", {"min → max", "not → nothing"}),
        ("a.b = True", {"a.b = True → pass", "True → False"}),
        ("a += 7", {"a += 7 → pass", "7 → 8"}),
        ("a = 'SELECT 1 WHERE b AND c > 2'", {"AND → OR", "> → >="}),
        ("a = 'Ångström', b - c", {"- → +"}),
        ("LOGGER.info('said %d', a + 1)", set()),
        ("'A docstring.'", set()),
    ],
)
def test_mutants_of_a_line(line, changes):
    found = mutants(f"def some():\n    {line}\n")
    assert {mutant.change for mutant in found} == changes
    assert {(mutant.number, mutant.line) for mutant in found} <= {(2, line)}


def test_constants_of_a_module_are_left_alone():
    assert mutants("MOST = 5\nSHARE: float = 0.1\n") == []
