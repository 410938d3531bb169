"""Man pages, completion and package say what the program does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sensor_node import __version__
from sensor_node.config.schema import SCHEMA
from sensor_node.control.commands import COMMANDS, OPTIONS
from sensor_node.storage.engine import quarantine

PACKAGING = Path(__file__).parents[2] / "packaging"
# A source package has it at the top.
DEBIAN = next(filter(Path.is_dir, (PACKAGING / "debian", PACKAGING.parent / "debian")))
COMMAND_PAGE = (PACKAGING / "man" / "sensor-node-ctl.1").read_text()
CONFIG_PAGE = (PACKAGING / "man" / "sensor-node.ini.5").read_text()
NAMES = [command.name for command in COMMANDS]
# What the package bash-completion has: here each word is whole, and a file is FILE or FILE.ini.
BASH_COMPLETION = """
_init_completion() {
    words=("${COMP_WORDS[@]}") cword=$COMP_CWORD split=false
    cur=${words[cword]} prev=${words[cword - 1]}
}
_filedir() { COMPREPLY=("FILE${1:+.$1}"); }
"""


def option_sections():
    """Of sensor-node.ini(5): each section's options, as (name, choices, default)."""
    sections = {}
    for part in CONFIG_PAGE.split("\n.Ss [")[1:]:
        section = part.partition("]")[0].removesuffix(":NAME")
        items = re.findall(r"^\.It Cm (\w+) No = (.*)\nDefault: (.*)\.$", part, re.MULTILINE)
        sections[section] = sorted(
            (
                name,
                value.removeprefix("Cm ").split(" | ") if value.startswith("Cm ") else [],
                "" if default == "empty" else default,
            )
            for name, value, default in items
        )
    return sections


def choices_of(option):
    """The words that an option of the configuration takes; none where it takes other text."""
    text = option.kind.allowed
    return text.removeprefix("one of ").split(", ") if text.startswith("one of ") else []


def test_the_configurations_page_has_each_option_with_its_choices_and_default_and_no_other():
    sections = {}
    for option in SCHEMA:
        row = (option.name, choices_of(option), option.default)
        sections.setdefault(option.section, []).append(row)
    assert sum(bool(choices) for rows in sections.values() for _, choices, _ in rows) >= 8
    assert option_sections() == {section: sorted(rows) for section, rows in sections.items()}


def items_of_commands():
    """Of sensor-node-ctl(1): what follows each command's own line, up to the next command's."""
    parts = re.split(r"^\.It (?:Xo )?Cm (\S+)", COMMAND_PAGE, flags=re.MULTILINE)
    items = {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        items[name] = items.get(name, "") + re.split(r"^\.S[hs] ", text, flags=re.MULTILINE)[0]
    return items


def test_the_commands_page_has_each_command_and_no_other() -> None:
    assert sorted(items_of_commands()) == sorted(NAMES)
    synopsis = COMMAND_PAGE.partition(".Sh SYNOPSIS")[2].partition(".Sh DESCRIPTION")[0]
    assert set(re.findall(r"[a-z]+", " ".join(re.findall(r"^\.Cm (.*)", synopsis, re.M)))) == set(
        NAMES
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_commands_page_has_each_option_of_a_command_and_no_other(command) -> None:
    options = {name for argument in command.arguments for name in argument.names if name[0] == "-"}
    item = items_of_commands()[command.name]
    assert {f"-{flag}" for flag in re.findall(r"\bFl (-[\w-]+)", item)} == options


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_commands_page_has_the_choices_and_default_of_each_option(command) -> None:
    item = items_of_commands()[command.name]
    for argument in command.arguments:
        if not argument.is_option:
            continue
        text = re.split(rf"^\.It Fl {argument.names[0][1:]}\b", item, flags=re.MULTILINE)[-1]
        text = re.split(r"^\.(?:It|El)\b", text, flags=re.MULTILINE)[0]
        choices = re.findall(r"^\.Cm ([A-Z_]+)", text, re.MULTILINE)
        assert choices == argument.settings.get("choices", []), argument.names
        default = re.search(r"The default is\s+(?:\.Pa )?(\S+?)\.?$", text, re.MULTILINE)
        told = default[1] if default else None
        wanted = argument.settings.get("default")
        assert told == (None if wanted is None else str(wanted)), argument.names


def test_the_commands_page_has_the_options_before_the_command() -> None:
    text = COMMAND_PAGE.partition("come before the command are:")[2].partition("\n.El")[0]
    flags = {f"-{flag}" for flag in re.findall(r"^\.It Fl (\S+)", text, re.MULTILINE)}
    assert flags == {option.names[0] for option in OPTIONS} | {"-h"}


@pytest.fixture(scope="module")
def completion():
    """The completion as the package has it."""
    command = [sys.executable, "-B", PACKAGING / "completion" / "generate.py"]
    environment = {"PYTHONPATH": str(PACKAGING.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def completed(completion, *words):
    """What bash offers for the last of the words that follow sensor-node-ctl."""
    program = f"""{BASH_COMPLETION}{completion}
    COMP_WORDS=(sensor-node-ctl "$@") COMP_CWORD=$#
    _sensor_node_ctl
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", program, "bash", *words], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_the_completion_offers_each_command_and_the_options_before_it(completion) -> None:
    assert completed(completion, "") == set(NAMES)
    assert completed(completion, "-c", "x.ini", "re") == {"restart", "reload", "requeue"}
    options = {option.names[0] for option in OPTIONS}
    assert completed(completion, "-") == options | {"--help"}
    assert completed(completion, "-c", "") == {"FILE.ini"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_completion_offers_each_option_of_a_command_and_its_values(completion, command):
    options = [argument for argument in command.arguments if argument.is_option]
    flags = {option.names[0] for option in options}
    assert completed(completion, command.name, "-") == flags | {"--help"}
    for option in options:
        offered = completed(completion, command.name, option.names[0], "")
        if choices := option.settings.get("choices"):
            assert offered == set(choices)
        elif option.takes_value:
            assert offered and not offered & flags, option.names


def test_the_completion_offers_files_where_a_command_takes_one_and_nothing_for_an_id(completion):
    assert completed(completion, "salvage", "") == {"FILE"}
    assert completed(completion, "sink", "--db", "") == {"FILE"}
    assert completed(completion, "show", "") == set()
    assert completed(completion, "requeue", "--dead", "") == set()
    assert completed(completion, "unknown", "") == set()


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
