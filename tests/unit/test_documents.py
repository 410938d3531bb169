"""Man pages, completion and package say what the program does."""

import argparse
import re
from pathlib import Path

import pytest

from sensor_node import __version__
from sensor_node.config.schema import SCHEMA
from sensor_node.control.main import HELP, _parser
from sensor_node.storage.engine import quarantine

PACKAGING = Path(__file__).parents[2] / "packaging"
# A source package has it at the top.
DEBIAN = next(filter(Path.is_dir, (PACKAGING / "debian", PACKAGING.parent / "debian")))
COMMAND_PAGE = (PACKAGING / "man" / "sensor-node-ctl.1").read_text()
COMPLETION = (PACKAGING / "completion" / "sensor-node-ctl").read_text()


def option_sections():
    """Of sensor-node.ini(5): each section's options, as (name, default)."""
    page = (PACKAGING / "man" / "sensor-node.ini.5").read_text()
    found = {}
    for part in page.split("\n.Ss [")[1:]:
        name = part.partition("]")[0].removesuffix(":NAME")
        items = re.findall(r"^\.It Cm (\w+) No = .*\nDefault: (.*)\.$", part, re.MULTILINE)
        found[name] = [(item, "" if default == "empty" else default) for item, default in items]
    return found


def options_of(command):
    """The long options of a command's parser."""
    [subparsers] = [
        action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)
    ]
    actions = subparsers.choices[command]._actions
    return {text for action in actions for text in action.option_strings if text.startswith("--")}


def test_the_configurations_page_has_each_option_with_its_default_and_no_other() -> None:
    wanted = {}
    for option in SCHEMA:
        wanted.setdefault(option.section, []).append((option.name, option.default))
    found = option_sections()
    assert {name: sorted(rows) for name, rows in found.items()} == {
        name: sorted(rows) for name, rows in wanted.items()
    }


@pytest.mark.parametrize("command", HELP)
def test_the_commands_page_and_the_completion_know_each_command_and_option(command) -> None:
    assert re.search(rf"^\.(It Xo\n\.)?(It )?Cm {command}\b", COMMAND_PAGE, re.MULTILINE)
    commands = re.search(r"local commands='([^']*)'", COMPLETION)[1].split()
    assert command in commands
    for option in options_of(command) - {"--help"}:
        assert f"Fl {option[1:]}" in COMMAND_PAGE, option
        completed = re.search(rf"\b{command}\b[^)]*\) candidates='([^']*)'", COMPLETION)[1]
        assert option in completed.split(), option


def test_documents_name_a_damaged_database_as_such_a_file_is_named() -> None:
    pages = [PACKAGING.parent / "README.md", *(PACKAGING / "man").iterdir()]
    names = re.findall(r"telemetry\.db(\.damaged[\w.-]*)", "".join(map(Path.read_text, pages)))
    # In a list of files, a pattern stands for all of them.
    names = [name.rstrip(".") for name in names if name != ".damaged-"]
    assert len(names) >= 3
    for name in names:
        assert quarantine.NAME_END.fullmatch(name), name


def test_the_package_has_the_programs_version() -> None:
    first = (DEBIAN / "changelog").read_text().splitlines()[0]
    assert f"({__version__})" in first


def test_the_packages_dependencies_are_those_of_setup_cfg() -> None:
    setup = (PACKAGING.parent / "setup.cfg").read_text()
    requires = re.search(r"install_requires =\n((?:    .*\n)+)", setup)[1].split()
    control = (DEBIAN / "control").read_text()
    for requirement in requires:
        name, _, version = requirement.partition(">=")
        assert f" python3-{name} (>= {version}),\n" in control
