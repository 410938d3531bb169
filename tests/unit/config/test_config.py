"""The configuration: found where it is said to be, and every mistake in it told at once."""

import os
import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace

import pytest

from sensor_node.config.loader import load_config
from sensor_node.config.places import directories, find_config
from sensor_node.config.schema import SECTIONS, options_of
from sensor_node.core.errors import ConfigError

SHIPPED = Path(__file__).parents[3] / "config.ini"
SENSOR = "[sensor:room]\n"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config.ini"


@pytest.fixture
def load(file):
    def write_and_load(text, **drop_ins):
        file.write_text(text)
        for name, content in drop_ins.items():
            drop_in(file, name, content)
        return load_config(file)

    return write_and_load


@pytest.fixture
def errors(load):
    """The lines that a configuration is refused with, its own path left out."""

    def lines(text, **drop_ins):
        with pytest.raises(ConfigError) as refused:
            load(text, **drop_ins)
        return list(refused.value.lines)

    return lines


def drop_in(file, name, content):
    directory = file.with_suffix(".d")
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.ini").write_text(content)


class TestEveryMistakeIsToldAtOnce:
    def test_with_file_section_option_value_and_what_is_allowed(self, file, errors) -> None:
        text = "[sensor:room]\nrate = fast\n[sink]\nbatch_size = 0\n[log]\nlevel = loud\n"
        assert errors(text) == [
            f"{file}: [sink] batch_size = '0': want a whole number from 1 to 10000",
            f"{file}: [log] level = 'loud': want one of debug, info, warning, error",
            f"{file}: [sensor:room] rate = 'fast': want readings a second such as 1 or 2.5, "
            "or 6/min, 4/h; at most 1000000",
        ]

    def test_also_those_of_different_kinds_and_files(self, file, errors) -> None:
        text = SENSOR + "[snik]\n[sink]\nulr = x\ntimeout = 1\n[DEFAULT]\nx = 1\n"
        found = errors(text, a="[process]\nsenders = none\n", b="no section\n")
        assert len(found) == 6
        assert {line.partition(":")[0] for line in found} == {
            str(file),
            str(file.with_suffix(".d") / "a.ini"),
            str(file.with_suffix(".d") / "b.ini"),
        }

    def test_each_on_a_line_of_its_own(self, errors) -> None:
        text = SENSOR + "command = a\n  b\n[node]\nid = a\n  b\n[sink]\nkey_file =\n k\n"
        for line in errors(text):
            assert len(line.splitlines()) == 1

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (SENSOR + "[sink]\nbatchsize = 1\n", "did you mean batch_size?"),
            (SENSOR + "[sink]\ntokenfile = x\n", "did you mean token_file?"),
            (SENSOR + "rat = 1\n", "did you mean rate?"),
            (SENSOR + "[retries]\n", "did you mean retry?"),
            (SENSOR + "[proces]\n", "did you mean process?"),
            ("[sensors:room]\n", "did you mean sensor:NAME?"),
            ("[Sensor:room]\n", "did you mean sensor:NAME?"),
            ("[sensor]\nrate = 1\n", "did you mean sensor:NAME?"),
        ],
    )
    def test_an_unknown_name_with_the_nearest_known_one(self, errors, text, said) -> None:
        [line] = errors(text)
        assert line.endswith(said)

    def test_an_unknown_name_like_no_other_with_all_that_are_known(self, errors) -> None:
        [line] = errors(SENSOR + "[log]\nzzz = 1\n")
        assert line.endswith("known are level")

    def test_control_characters_in_a_name_do_not_reach_the_terminal(self, errors) -> None:
        [option, section] = errors(f"{SENSOR}\x1b[31mrate = 1\n[\x1b]0;sink]\n")
        assert "[sensor:room] \\x1b[31mrate: unknown option" in option
        assert "[\\x1b]0;sink]: unknown section" in section

    def test_no_sensor(self, file, errors) -> None:
        assert errors("[node]\nid = a\n") == [f"{file}: no sensor; add a section [sensor:NAME]"]

    def test_no_sensor_only_if_that_is_the_mistake(self, errors) -> None:
        assert not [line for line in errors("[sensr:room]\n") if "no sensor" in line]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[node]\nid = a\nID = b\n", "line 3: [node] id comes twice"),
            ("[node]\n[node]\n", "line 2: [node] comes twice"),
        ],
    )
    def test_what_is_there_twice_and_all_else(self, errors, text, said) -> None:
        first, second = errors(text + SENSOR + "rate = 0\n")
        assert said in first
        assert "[sensor:room] rate = '0'" in second


class TestAFileThatCannotBeUsed:
    def test_is_named_if_it_is_missing(self, file) -> None:
        with pytest.raises(ConfigError) as refused:
            load_config(file)
        assert refused.value.lines == (f"{file}: cannot be read: No such file or directory",)

    def test_is_named_if_it_is_a_directory(self, file) -> None:
        file.mkdir()
        with pytest.raises(ConfigError, match="cannot be read: it is no regular file"):
            load_config(file)

    def test_is_named_if_it_is_not_utf_8(self, file) -> None:
        file.write_bytes(b"[node]\nid = W\xfcrzburg\n")
        with pytest.raises(ConfigError) as refused:
            load_config(file)
        assert refused.value.lines == (f"{file}: cannot be read: it is not UTF-8 text",)

    @pytest.mark.parametrize("text", ["rate = 1\n", SENSOR + "rate\n", "[sensor:room\n", "\x00\n"])
    def test_is_named_with_the_line_if_it_is_no_ini_file(self, file, errors, text) -> None:
        [line] = errors(text)
        assert line.startswith(f"{file}: ")
        assert "line" in line

    def test_is_named_if_it_is_a_drop_in(self, file, errors) -> None:
        [line] = errors(SENSOR, broken="rate = 1\n")
        assert line.startswith(str(file.with_suffix(".d") / "broken.ini"))

    def test_does_not_have_to_be_in_the_directory_where_one_stands(self, file, load) -> None:
        load(SENSOR)
        assert load_config(file).file.is_absolute()


class TestHowFilesAreWritten:
    def test_byte_order_mark_and_crlf_are_no_mistakes(self, file) -> None:
        file.write_bytes(b"\xef\xbb\xbf[sensor:room]\r\nrate = 6/min\r\n[node]\r\nid = a b\r\n")
        config = load_config(file)
        assert (config.node_id, config.sensors[0].rate) == ("a b", 0.1)

    def test_percent_and_dollar_signs_mean_themselves(self, load) -> None:
        config = load(SENSOR + "source = command\ncommand = date +%s%(x)s $HOME ${HOME}\n")
        assert config.sensors[0].settings["command"] == "date +%s%(x)s $HOME ${HOME}"

    def test_options_in_a_default_section_are_refused_and_not_inherited(self, errors) -> None:
        [line] = errors("[DEFAULT]\nrate = 1\n" + SENSOR)
        assert "[DEFAULT] is not used here" in line

    def test_a_comment_after_a_value_is_part_of_it_and_so_refused(self, errors) -> None:
        [line] = errors(SENSOR + "rate = 1 # a second\n")
        assert "rate = '1 # a second'" in line

    @pytest.mark.parametrize("name", ["a" * 128, "Wohnzimmer 2", "é" * 64, "a:b", "a]b"])
    def test_a_sensor_has_any_printable_name(self, load, name) -> None:
        assert load(f"[sensor:{name}]\n").sensors[0].name == name

    @pytest.mark.parametrize("name", ["", "a" * 129, "é" * 65, "a\tb", "a\x1b[31mb"])
    def test_a_sensor_has_no_other_name(self, errors, name) -> None:
        [line] = errors(f"[sensor:{name}]\n")
        assert "want a printable name of 1 to 128 bytes" in line

    def test_once_loaded_it_cannot_change(self, load) -> None:
        with pytest.raises(FrozenInstanceError):
            load(SENSOR).node_id = "b"


class TestDropIns:
    def test_win_over_the_file_and_later_ones_over_earlier_ones(self, load) -> None:
        config = load(
            SENSOR + "[sink]\nbatch_size = 1\ntimeout = 1s\n[log]\nlevel = error\n",
            **{
                "20-b": "[sink]\nbatch_size = 3\n",
                "10-a": "[sink]\nbatch_size = 2\ntimeout = 2s\n",
            },
        )
        assert (config.sink.batch_size, config.sink.timeout) == (3, 2.0)
        assert config.log.level == "error"

    def test_can_bring_a_sensor_of_their_own(self, load) -> None:
        config = load(SENSOR, more="[sensor:cellar]\nrate = 2\n[sensor:room]\nrate = 3\n")
        assert {sensor.name: sensor.rate for sensor in config.sensors} == {"room": 3, "cellar": 2}

    def test_are_only_files_that_end_in_ini(self, file, load) -> None:
        load(SENSOR)
        drop_in(file, "good", "")
        (file.with_suffix(".d") / "note.txt").write_text("not for us")
        (file.with_suffix(".d") / "old.ini.bak").write_text("not for us")
        load_config(file)

    def test_that_cannot_be_listed_are_not_taken_for_none(self, file, load, errors) -> None:
        file.with_suffix(".d").write_text("a file is in the way")
        assert errors(SENSOR) == [f"{file.with_suffix('.d')}: cannot be read: Not a directory"]

    def test_that_are_wrong_are_blamed_themselves(self, file, errors) -> None:
        text = SENSOR + "[retry]\nmax_delay = 5m\n"
        late = file.with_suffix(".d") / "late.ini"
        [line] = errors(text, late="[retry]\ninitial_delay = 10m\n")
        assert line == f"{late}: [retry] initial_delay = '10m': want at most max_delay, 300s"
        [line] = errors(SENSOR, late="[sensor:room]\nmetric = cpu\n")
        assert line.startswith(f"{late}: [sensor:room] metric = 'cpu'")

    def test_and_the_file_are_named_with_each_value(self, file, load) -> None:
        config = load(SENSOR + "rate = 2\n", late="[log]\nlevel = debug\n")
        said = {(row.section, row.option): (row.value, row.file) for row in config.effective}
        assert said["sensor:room", "rate"] == ("2", str(file))
        late = file.with_suffix(".d") / "late.ini"
        assert said["log", "level"] == ("debug", str(late))
        assert said["sink", "batch_size"] == ("100", "")

    def test_only_options_that_have_a_meaning_are_shown(self, load) -> None:
        config = load("[sensor:load]\nsource = host\n")
        shown = {row.option for row in config.effective if row.section == "sensor:load"}
        assert shown == {"source", "rate", "metric", "path"}


class TestMistakesThatNoOptionHasAlone:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "[retry]\ninitial_delay = 10m\n",
                "[retry] initial_delay = '10m': want at most max_delay, 300s",
            ),
            (
                "[retry]\nmax_delay = 500ms\n",
                "[retry] initial_delay = '1s': want at most max_delay, 0.5s",
            ),
            ("[sink]\nusername = joe\n", "[sink] username = 'joe': want password_file with it"),
            ("[sink]\npassword_file = p\n", "[sink] password_file = 'p': want username with it"),
            (
                "[sink]\nusername = joe\npassword_file = p\ntoken_file = t\n",
                "[sink] token_file = 't': want it or username, not both",
            ),
            ("[sink]\nkey_file = k\n", "[sink] key_file = 'k': want cert_file with it"),
            (
                "[sink]\nsuccess_statuses = 200-299, 409\nrefused_statuses = 400, 409\n",
                "[sink] refused_statuses = '400, 409': want no success_statuses, as 409 is",
            ),
            ("[sensor:a]\nmin = 30\n", "[sensor:a] min = '30': want at most max, 25"),
            ("[sensor:a]\nsource = command\n", "[sensor:a] command = '': want a shell command"),
            (
                "[sensor:a]\nsource = host\nrate = 101\n",
                "[sensor:a] rate = '101': want at most 100 with source = host",
            ),
            (
                "[sensor:a]\nsource = command\ncommand = date\nrate = 11\n",
                "[sensor:a] rate = '11': want at most 10 with source = command",
            ),
            (
                "[sensor:a]\nsource = host\nwaveform = sine\n",
                "[sensor:a] waveform = 'sine': want it only with source = mock",
            ),
        ],
    )
    def test_are_told_with_both_sides(self, file, errors, text, said) -> None:
        assert errors(SENSOR + text) == [f"{file}: {said}"]

    @pytest.mark.parametrize(
        "text",
        [
            "[retry]\ninitial_delay = 5m\n",
            "[sink]\nusername = joe\npassword_file = p\n",
            "[sink]\ncert_file = c\n",
            "[sink]\ncert_file = c\nkey_file = k\n",
            "[sensor:a]\nmin = 25\n",
            "[sensor:a]\nsource = host\nrate = 100\n",
        ],
    )
    def test_are_not_told_where_there_are_none(self, load, text) -> None:
        load(SENSOR + text)


class TestWhereThingsAre:
    @pytest.mark.parametrize(
        ("file", "state", "runtime"),
        [
            ("/etc/sensor-node/config.ini", "/var/lib/sensor-node", "/run/sensor-node"),
            ("/etc/sensor-node/two.ini", "/var/lib/sensor-node-two", "/run/sensor-node-two"),
            ("/home/joe/config.ini", "/home/joe/sensor-node-data", "/home/joe/sensor-node-data"),
            (
                "/etc/sensor-node/x/config.ini",
                "/etc/sensor-node/x/sensor-node-data",
                "/etc/sensor-node/x/sensor-node-data",
            ),
        ],
    )
    def test_follows_from_the_place_of_the_file_alone(self, file, state, runtime) -> None:
        assert directories(Path(file)) == (Path(state), Path(runtime))

    def test_the_database_is_in_the_state_directory(self, file, load) -> None:
        assert load(SENSOR).storage.path == file.parent / "sensor-node-data" / "telemetry.db"

    @pytest.mark.parametrize(("path", "found"), [("/mnt/x.db", "/mnt/x.db"), ("x.db", "{}/x.db")])
    def test_or_where_storage_path_says(self, file, load, path, found) -> None:
        config = load(SENSOR + f"[storage]\npath = {path}\n")
        assert str(config.storage.path) == found.format(file.parent)

    def test_the_argument_comes_before_the_environment(self, monkeypatch) -> None:
        monkeypatch.setenv("SENSOR_NODE_CONFIG", "/from/environment.ini")
        assert find_config("here.ini") == Path("here.ini")
        assert find_config(None) == Path("/from/environment.ini")

    def test_then_comes_the_systems_file_and_then_one_here(self, tmp_path, monkeypatch) -> None:
        monkeypatch.delenv("SENSOR_NODE_CONFIG", raising=False)
        monkeypatch.setattr("sensor_node.config.places.SYSTEM_DIRECTORY", tmp_path)
        assert find_config(None) == Path("config.ini")
        (tmp_path / "config.ini").touch()
        assert find_config(None) == tmp_path / "config.ini"

    def test_the_node_is_called_as_it_says_else_as_its_machine(self, load, monkeypatch) -> None:
        monkeypatch.setattr("os.uname", lambda: SimpleNamespace(nodename="edge-07"))
        assert load(SENSOR).node_id == "edge-07"
        assert load(SENSOR + "[node]\nid = edge-01\n").node_id == "edge-01"

    @pytest.mark.parametrize(
        ("name", "sent"),
        [
            ("", "localhost"),
            ("  ", "localhost"),
            (os.fsdecode(b"caf\xe9"), "caf-"),
            ("a\x1b[31mb\n", "a-[31mb-"),
            ("caf\u00e9", "caf\u00e9"),
        ],
    )
    def test_a_machine_may_have_any_name(self, load, monkeypatch, name, sent) -> None:
        monkeypatch.setattr("os.uname", lambda: SimpleNamespace(nodename=name))
        assert load(SENSOR).node_id == sent

    def test_secret_files_are_beside_the_configuration(self, file, load) -> None:
        sink = load(SENSOR + "[sink]\ntoken_file = token\nca_file = /etc/ca.pem\n").sink
        assert sink.token_file == str(file.parent / "token")
        assert sink.secret_files == (str(file.parent / "token"), "/etc/ca.pem")
        assert load(SENSOR).sink.secret_files == ()

    def test_or_among_systemds_credentials(self, load, monkeypatch) -> None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
        text = SENSOR + "[sink]\ntoken_file = ${CREDENTIALS_DIRECTORY}/token\n"
        assert load(text).sink.token_file == "/run/credentials/x/token"


class TestTheShippedFile:
    """It is the documented default: whoever deletes a line of it changes nothing."""

    LINE = re.compile(r"(# )?([a-z_]+) = ?(.*)")

    def lines(self):
        """(section, option, value, whether it is commented out) for each option in it."""
        section = ""
        for line in SHIPPED.read_text().splitlines():
            if line.startswith("["):
                section = line.strip("[]").partition(":")[0]
            elif (match := self.LINE.fullmatch(line)) and not line.startswith("# batch_size = 1 "):
                yield section, match[2], match[3], bool(match[1])

    def test_loads_without_an_error(self) -> None:
        config = load_config(SHIPPED)
        assert [sensor.name for sensor in config.sensors] == ["temperature"]

    def test_names_only_options_that_there_are(self) -> None:
        found = list(self.lines())
        assert len(found) > 20
        for section, option, _, _ in found:
            assert option in options_of(section), (section, option)

    def test_sets_every_option_to_its_default(self) -> None:
        for section, option, value, commented in self.lines():
            if not commented:
                known = options_of(section)[option]
                assert known.kind.parse(value) == known.kind.parse(known.default), option

    def test_suggests_only_values_that_are_allowed(self) -> None:
        suggested = [row for row in self.lines() if row[3]]
        assert len(suggested) >= 4
        for section, option, value, _ in suggested:
            options_of(section)[option].kind.parse(value)

    def test_has_every_section(self) -> None:
        assert {section for section, _, _, _ in self.lines()} == set(SECTIONS)

    def test_gives_the_defaults_of_a_file_that_says_nothing(self, load) -> None:
        bare, shipped = load("[sensor:temperature]\n"), load_config(SHIPPED)
        for part in ("sensors", "sink", "retry", "process", "log"):
            assert getattr(bare, part) == getattr(shipped, part)


def test_a_password_in_a_url_is_not_repeated(file, load) -> None:
    with pytest.raises(ConfigError) as refused:
        load(SENSOR + "[sink]\nurl = http://joe:secret@sink.example/\n")
    assert "secret" not in str(refused.value)
    assert "//***@sink.example/" in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://joe:x/secret@sink.example/",
        "http://joe:x@secret@sink.example/",
        "joe:secret@sink.example",
        "https:/joe:secret@sink.example",
    ],
)
def test_a_password_in_a_url_that_is_none_is_not_repeated_either(load, url) -> None:
    with pytest.raises(ConfigError) as refused:
        load(SENSOR + f"[sink]\nproxy = {url}\n")
    assert "secret" not in str(refused.value)
    assert "***@sink.example" in str(refused.value)


@pytest.mark.parametrize(
    "lines",
    [
        "format = json\n  url = {}",
        "batch_size = 100\n\turl = {}",
        "url = http://h/\n proxy = {}",
        "url = http://joe:secret\n  x@sink.example/",
        "url = http://joe:sec\nret@sink.example/",
        "= {}",
        "{}",
        "[{}]",
        "timeout = 1s  ; was {}",
        "senders = {}",
        "url secret",
        "url = http://joe:x\nsecret",
        "url = joe:secret@http://sink.example",
        "url = http://joe@corp:secret",
        "url = http://joe:se/secret",
        "url = http://joe:se cret-secret",
        "proxy = joe:secret",
        "proxy = http:\\\\joe:secret",
        "proxy = http://[joe:secret",
        "joe:secret@x = 1",
        "[https//joe:secret]",
        "[sensor:http://joe:secret@h]\nrate = fast",
        "[sensor:plc]\ncommand = mosquitto_sub -P secret",
        "[sensor:plc]\nsource = command\ncommand = curl --pass\nsecret",
    ],
)
def test_nor_one_in_a_line_where_it_does_not_belong(load, lines) -> None:
    with pytest.raises(ConfigError) as refused:
        load(SENSOR + "[sink]\n" + lines.format("http://joe:secret@sink.example/") + "\n")
    for part in ("secret", "sec'", "'ret"):
        assert part not in str(refused.value)


def test_a_line_that_is_no_option_is_named(load, file) -> None:
    with pytest.raises(ConfigError) as refused:
        load("[sensor:room]\n= 3\nrate = 1\nwhat\n")
    wanted = "want OPTION = VALUE, after a line [SECTION]"
    assert refused.value.lines == (
        f"{file}: line 2: {wanted}",
        f"{file}: line 4: {wanted}",
    )
    with pytest.raises(ConfigError) as refused:
        load("rate = 1\n")
    assert str(refused.value) == f"{file}: line 1: {wanted}"


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        # A closing quote, or a heredoc's end, that is less deep.
        ("a '\n        b\n    '", "a '\nb\n'"),
        ("a <<E\n      b\n      E\n  c", "a <<E\nb\nE\nc"),
        # Brackets do not begin a section where a value goes on.
        ("a '\n    b\n    [c]\n      [d]'", "a '\nb\n[c]\n  [d]'"),
        ("\n    a\n\tb", "\na\nb"),
    ],
)
def test_the_margin_of_a_value_is_that_of_its_second_line(tmp_path, lines, kept) -> None:
    file = tmp_path / "config.ini"
    file.write_text(f"[sensor:room]\nsource = command\ncommand = {lines}\nrate = 1\n")
    assert load_config(file).sensors[0].settings["command"] == kept


def test_the_indentation_of_a_program_in_a_value_stays(tmp_path) -> None:
    file = tmp_path / "config.ini"
    file.write_text(
        "[sensor:room]\n"
        "source = command\n"
        "command = python3 -c '\n"
        "    for number in (1, 2):\n"
        "        if number > 1:\n"
        "        \tprint(number)'\n"
        "  rate = 1/h\n"
        "[log]\n"
        "  level = debug\n"
    )
    config = load_config(file)
    assert config.sensors[0].settings["command"] == (
        "python3 -c '\nfor number in (1, 2):\n    if number > 1:\n    \tprint(number)'\nrate = 1/h"
    )
    assert config.log.level == "debug"
