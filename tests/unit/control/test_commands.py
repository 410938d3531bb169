"""The table of commands: each row is whole, and a row is all that the command line needs."""

import inspect
import sys

import pytest

from sensor_node.control import commands, main
from sensor_node.control.commands import COMMANDS, Argument, Command, ConfigFrom, DropFor, load

CALLS = []


def dance(config, *, steps, with_music):
    """A command of this test's own."""
    CALLS.append((config.node_id, steps, with_music))
    return 7


DANCE = Command(
    name="dance",
    help="dance some steps",
    function=f"{__name__}:dance",
    arguments=(
        Argument("steps", metavar="STEPS", type=commands.count),
        Argument("--music", action="store_true", dest="with_music", help="to music"),
    ),
    mistake_in=lambda options: "at most 9 steps" if options.steps > 9 else "",
)


@pytest.fixture
def ctl(tmp_path, monkeypatch, capsys):
    """The command line with a row more: exit status, output and errors."""
    file = tmp_path / "config.ini"
    file.write_text("[node]\nid = edge-01\n[sensor:room]\n")
    monkeypatch.setattr(commands, "COMMANDS", (*COMMANDS, DANCE))
    CALLS.clear()

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sensor-node-ctl", "-c", str(file), *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def destinations(command):
    """The names by which a command's function gets its arguments."""
    return {
        argument.settings.get("dest", argument.names[0].lstrip("-").replace("-", "_"))
        for argument in command.arguments
    }


class TestARow:
    def test_is_all_that_a_new_command_needs(self, ctl) -> None:
        assert "dance     dance some steps\n" in ctl("--help")[1]
        assert "--music" in ctl("dance", "--help")[1]
        assert ctl("dance", "3", "--music") == (7, "", "")
        assert CALLS == [("edge-01", 3, True)]

    def test_says_what_is_wrong_with_its_arguments_together(self, ctl) -> None:
        line = "sensor-node-ctl: dance: at most 9 steps; see sensor-node-ctl --help\n"
        assert ctl("dance", "10") == (2, "", line)
        assert CALLS == []

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
    def test_names_a_function_that_takes_its_arguments(self, command) -> None:
        config = () if command.config_from is ConfigFrom.NOWHERE else ("config",)
        arguments = dict.fromkeys(destinations(command))
        inspect.signature(load(command.function)).bind(*config, **arguments)

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
    def test_names_a_function_of_systemds_that_takes_a_file(self, command) -> None:
        if command.by_systemd:
            inspect.signature(load(command.by_systemd)).bind("file")

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
    def test_says_whose_files_a_command_without_a_configuration_uses(self, command) -> None:
        without_config = command.config_from is ConfigFrom.NOWHERE
        assert without_config == (command.drop_for is DropFor.DATABASE)
        assert not without_config or "database" in destinations(command)

    def test_has_a_name_of_its_own(self) -> None:
        assert len({command.name for command in COMMANDS}) == len(COMMANDS)
