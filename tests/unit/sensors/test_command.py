"""A command's output becomes readings; whatever it does, it is ended in time and leaves nothing."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor_node.core.errors import SourceError
from sensor_node.core.model import DatedReading, Reading
from sensor_node.sensors import command as command_module
from sensor_node.sensors.command import CommandSettings, CommandSource
from sensor_node.sensors.command_output import parse_output, telling_line

NOW_US = 1_700_000_000_000_000
# For what should happen at once; only a failing test waits for so long.
DEADLINE_SECONDS = 30
FOREVER = "/bin/sleep 1000"
# A PATH on which the leader, too, outlives a killed generator.
WITHOUT_SETPRIV = "/nonexistent"

# Runs one reading in a process of its own that a test can kill: directory, command.
GENERATOR = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_command import open_command
open_command(Path(sys.argv[2]), sys.argv[3]).read(0, [0])
"""


def open_command(
    directory: Path, command: str, timeout: float = DEADLINE_SECONDS, name: str = "room"
) -> CommandSource:
    return CommandSource(name, CommandSettings(command, timeout), directory)


def run(directory: Path, command: str, timeout: float = DEADLINE_SECONDS) -> list[Reading]:
    return open_command(directory, command, timeout).read(5, [NOW_US])


def parse(*lines: str) -> list[Reading]:
    return parse_output("\n".join(lines).encode(), "room", NOW_US)


def wait_until_gone(pid: int) -> None:
    try:
        exited = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ready, _, _ = select.select([exited], [], [], DEADLINE_SECONDS)
    os.close(exited)
    assert ready, f"process {pid} lives on"


class Told:
    """A pid that a command writes to a named pipe, so that a test can wait for that moment."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def pid(self) -> int:
        ready, _, _ = select.select([self._pipe], [], [], DEADLINE_SECONDS)
        assert ready, "the command never came to that point"
        return int(os.read(self._pipe, 20))

    def close(self) -> None:
        os.close(self._pipe)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    told = Told(tmp_path / "told")
    yield told
    told.close()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    process = psutil.Process()
    children, files = process.children(), process.num_fds()
    yield
    assert process.children() == children
    assert process.num_fds() <= files


# What it prints


def test_a_number_is_a_reading_of_the_sensor_at_the_tick(tmp_path: Path) -> None:
    assert run(tmp_path, "echo 21.5") == [Reading("room", 21.5, NOW_US)]


def test_each_line_is_a_reading(tmp_path: Path) -> None:
    lines = r"""printf '{"name":"a","value":1}\n\n  {"value":2.5}\r\n3'"""
    assert run(tmp_path, lines) == [
        Reading("a", 1.0, NOW_US),
        Reading("room", 2.5, NOW_US),
        Reading("room", 3.0, NOW_US),
    ]


@pytest.mark.parametrize(
    ("timestamp", "microseconds"),
    [
        ("2023-11-14T22:13:20Z", NOW_US),
        ("2023-11-14T23:13:20.000001+01:00", NOW_US + 1),
        (1_700_000_000, NOW_US),
        (1_700_000_000.000001, NOW_US + 1),
        (0, 0),
    ],
)
def test_a_line_may_bring_its_own_timestamp(timestamp: object, microseconds: int) -> None:
    line = json.dumps({"value": 1, "timestamp": timestamp})
    assert parse(line) == [DatedReading("room", 1.0, microseconds, captured_us=NOW_US)]


@given(st.floats())
def test_a_value_arrives_bit_for_bit_and_not_finite_is_for_the_service_to_refuse(
    value: float,
) -> None:
    for line in (repr(value), json.dumps({"value": value})):
        assert repr(parse(line)[0].value) == repr(value)


@pytest.mark.parametrize(
    "line",
    [
        "warm",
        "21,5",
        "0x10",
        "1 2",
        "[1]",
        "{",
        "{}",
        '{"value":1} 2',
        '{"value":"1"}',
        '{"value":null}',
        '{"value":true}',
        '{"value":1' + "0" * 400 + "}",
        '{"value":1' + "0" * 5000 + "}",
        '{"a":' * 10_000,
        '{"value":1,"name":""}',
        '{"value":1,"name":7}',
        '{"value":1,"name":"' + "é" * 65 + '"}',
        r'{"value":1,"name":"\ud800"}',
        '{"value":1,"timestamp":"2023-11-14T22:13:20"}',
        '{"value":1,"timestamp":"2023-11-14"}',
        '{"value":1,"timestamp":"0001-01-01T00:00:00+12:00"}',
        '{"value":1,"timestamp":"yesterday"}',
        '{"value":1,"timestamp":true}',
        '{"value":1,"timestamp":null}',
        '{"value":1,"timestamp":NaN}',
        '{"value":1,"timestamp":1e400}',
        '{"value":1,"timestamp":1700000000000}',
        '{"value":1,"timestamp":-1}',
    ],
)
def test_a_bad_line_is_named_in_one_short_line(line: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse("1", line)
    message = str(caught.value)
    assert message.startswith(f"the command printed {line[:70]!r}"[:-1])
    assert "print a number, or" in message
    assert message.isprintable()
    assert len(message) < 400


def test_output_that_is_not_text_is_refused() -> None:
    with pytest.raises(SourceError, match="the command printed '�'"):
        parse_output(b"\xff", "room", NOW_US)


def test_the_longest_name_is_taken() -> None:
    name = "é" * 64
    assert parse(json.dumps({"name": name, "value": 1}))[0].name == name


def test_printing_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="printed nothing"):
        run(tmp_path, "true")


def test_output_beyond_the_limit_ends_the_command_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="more than 64 KiB"):
        run(tmp_path, "yes 1")


def test_output_up_to_the_limit_is_read_whole(tmp_path: Path) -> None:
    assert len(run(tmp_path, "yes 1 | head -n 32768")) == 32768


# How it ends


def test_a_bad_exit_says_its_status_and_the_first_line_of_stderr(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"status 3: 'no bus'; try it by hand"):
        run(tmp_path, "echo 1; echo no bus >&2; echo more >&2; exit 3")


def test_no_output_but_a_complaint_is_told_with_the_complaint(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="printed nothing but, on stderr, 'no bus'; try it"):
        run(tmp_path, "echo no bus >&2; echo more >&2")


DIES = {
    "import nosuch": "ModuleNotFoundError: No module named 'nosuch'",
    "import warnings; warnings.warn('old'); 1/0": "ZeroDivisionError: division by zero",
    "try: {}['a']\nexcept KeyError as e: raise ValueError('last') from e": "ValueError: last",
    "try: {}['a']\nexcept KeyError: raise ValueError('last')": "ValueError: last",
    "raise ValueError('first\\nsecond\\n  third')": "ValueError: first",
    "raise ValueError('\\nsecond')": "ValueError: second",
    "raise KeyError": "KeyError",
    "raise ExceptionGroup('many', [ValueError(1)])": "ExceptionGroup: many (1 sub-exception)",
    "try: 1/0\nexcept Exception as e: raise ExceptionGroup('many', [e])": "ExceptionGroup: many "
    "(1 sub-exception)",
    "x = (": "SyntaxError: '(' was never closed",
    "class A:\n  def __del__(self): 1/0\na = A()\nraise OSError('no bus')": "OSError: no bus",
    "import sys; sys.exit('no bus')": "no bus",
}


@pytest.mark.parametrize("program", DIES)
def test_of_a_python_program_it_is_told_what_it_died_of(tmp_path: Path, program: str) -> None:
    (tmp_path / "program.py").write_text(program)
    with pytest.raises(SourceError, match="status 1") as raised:
        run(tmp_path, f"{sys.executable} {tmp_path}/program.py")
    assert f"status 1: {DIES[program]!r}; try it by hand" in str(raised.value)


@pytest.mark.parametrize(
    "complaint",
    [b"", b"\n \n", b"Traceback (most recent call last):\n  File", b'  File "x", line 1\n'],
)
def test_a_stack_that_is_cut_off_is_no_fault(complaint: bytes) -> None:
    assert telling_line(complaint) in complaint


def test_a_death_by_signal_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="killed by signal 15: 'nothing on stderr'"):
        run(tmp_path, "kill -TERM $$")


def test_much_on_stderr_neither_blocks_nor_spoils_a_reading(tmp_path: Path) -> None:
    assert run(tmp_path, "yes oh | head -c 1000000 >&2; echo 1")[0].value == 1


def test_a_command_that_cannot_be_started_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be run: embedded null byte"):
        run(tmp_path, "echo \0")


def test_stdin_is_empty(tmp_path: Path) -> None:
    assert run(tmp_path, "wc -c")[0].value == 0


def test_of_the_environment_it_gets_what_it_needs_and_no_more(tmp_path, monkeypatch) -> None:
    for name in os.environ:
        monkeypatch.delenv(name)
    for name in ("PATH", "HOME", "LANG", "LC_TIME", "TZ", "DB_PASSWORD", "NOTIFY_SOCKET"):
        monkeypatch.setenv(name, os.defpath if name == "PATH" else "x")
    run(tmp_path, f"env > {tmp_path}/env; echo 1")
    got = {line.split("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert got - {"PWD", "SHLVL", "_"} == {
        *("PATH", "HOME", "LANG", "LC_TIME", "TZ"),
        "SENSOR_NODE_COMMAND",
    }


def test_a_timeout_kills_the_whole_group(tmp_path: Path, told: Told) -> None:
    with pytest.raises(SourceError, match="ran longer than 1 s and was killed; raise timeout"):
        run(tmp_path, f"{FOREVER} & echo $! > {told.path}; {FOREVER}; true", timeout=1)
    wait_until_gone(told.pid())


def test_a_command_that_never_stops_talking_is_timed_out_too(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="ran longer than"):
        run(tmp_path, "yes >&2", timeout=0.2)


def test_closing_its_pipes_neither_ends_a_command_nor_costs_cpu_time(tmp_path: Path) -> None:
    started = time.thread_time()
    with pytest.raises(SourceError, match="ran longer than"):
        run(tmp_path, f"exec >&- 2>&-; {FOREVER}", timeout=0.2)
    assert time.thread_time() - started < 0.1


def test_a_grandchild_that_keeps_stdout_open_holds_up_nothing(tmp_path: Path, told: Told) -> None:
    readings = run(tmp_path, f"{FOREVER} & echo $! > {told.path}; echo 1")
    assert [reading.value for reading in readings] == [1]
    wait_until_gone(told.pid())


def test_close_kills_what_runs_and_ends_the_read(tmp_path: Path, told: Told) -> None:
    command = f"{FOREVER} & echo $! > {told.path}; {FOREVER}; true"
    source = open_command(tmp_path, command)
    errors: list[SourceError] = []

    def read() -> None:
        with pytest.raises(SourceError) as caught:
            source.read(0, [NOW_US])
        errors.append(caught.value)

    thread = threading.Thread(target=read)
    thread.start()
    grandchild = told.pid()
    source.close()
    thread.join(DEADLINE_SECONDS)
    assert len(errors) == 1
    wait_until_gone(grandchild)


def test_a_closed_source_runs_nothing(tmp_path: Path) -> None:
    source = open_command(tmp_path, f"touch {tmp_path}/ran; echo 1")
    source.close()
    source.close()
    with pytest.raises(SourceError, match="closed"):
        source.read(0, [NOW_US])
    assert not (tmp_path / "ran").exists()


def test_a_command_that_cannot_be_killed_is_said_and_not_started_again(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended = tmp_path / "mended"
    command = f"[ -e {mended} ] && exec echo 1; echo $$ > {told.path}; exec {FOREVER}"
    source = open_command(tmp_path, command, timeout=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda *_: None)
        patch.setattr(command_module, "KILL_SECONDS", 0.1)
        for _ in range(2):
            with pytest.raises(SourceError, match=r"\(pid \d+\) was killed but does not end"):
                source.read(0, [NOW_US])
    pid = told.pid()
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    mended.touch()
    assert source.read(0, [NOW_US]) == [Reading("room", 1.0, NOW_US)]


# What a killed generator leaves behind


RECORD = f"command-{'0' * 32}-room.pgid"


def records(directory: Path) -> list[Path]:
    return list(directory.glob("*.pgid"))


def kill_generator(directory: Path, told: Told, command: str, path: str) -> int:
    """Kill one whose command told a pid, when it has noted its group; that pid."""
    noted = f'read boot pgid rest < $(echo {directory}/command-*-room.pgid); [ "$pgid" ]'
    until_noted = f"until {noted}; do /bin/sleep 0.01; done"
    script = [sys.executable, "-c", GENERATOR, str(Path(__file__).parent)]
    with subprocess.Popen(
        [*script, str(directory), f"{until_noted}; {command}"], env={**os.environ, "PATH": path}
    ) as generator:
        pid = told.pid()
        generator.kill()
    return pid


def test_the_command_dies_with_the_generator(tmp_path: Path, told: Told) -> None:
    command = f"echo $$ > {told.path}; exec {FOREVER}"
    wait_until_gone(kill_generator(tmp_path, told, command, os.environ["PATH"]))


@pytest.mark.parametrize(
    "command",
    [
        "{forever} & echo $! > {told}; wait",
        "exec /usr/bin/env -i /bin/sh -c 'echo $$ > {told}; {forever}; true'",
    ],
    ids=["a child", "a leader with another environment"],
)
def test_a_start_ends_the_group_that_a_killed_generator_left(
    tmp_path: Path, told: Told, command: str
) -> None:
    command = command.format(forever=FOREVER, told=told.path)
    survivor = kill_generator(tmp_path, told, command, WITHOUT_SETPRIV)
    os.kill(survivor, 0)
    open_command(tmp_path, "echo 1")
    wait_until_gone(survivor)
    assert records(tmp_path) == []


def test_a_start_ends_a_group_whose_number_its_generator_had_no_time_to_note(
    tmp_path: Path, told: Told
) -> None:
    command = f"{FOREVER} & echo $! > {told.path}; wait"
    survivor = kill_generator(tmp_path, told, command, os.environ["PATH"])
    (record,) = records(tmp_path)
    record.write_text("")
    os.kill(survivor, 0)
    open_command(tmp_path, "echo 1")
    wait_until_gone(survivor)


def test_a_start_ends_the_old_group_also_when_its_leader_is_gone(
    tmp_path: Path, told: Told
) -> None:
    command = f"{FOREVER} & echo $! > {told.path}; wait"
    survivor = kill_generator(tmp_path, told, command, WITHOUT_SETPRIV)
    (record,) = records(tmp_path)
    boot_id, pgid, _ = record.read_text().split()
    os.kill(int(pgid), signal.SIGKILL)
    wait_until_gone(int(pgid))
    # A leader that nobody has reaped yet must not be what the group is known by.
    record.write_text(f"{boot_id} {pgid} 1")
    open_command(tmp_path, "echo 1")
    wait_until_gone(survivor)


@pytest.mark.parametrize("record", ["{boot} {pid} 1", "another-boot {pid} {ticks}", "{boot}", ""])
def test_a_stranger_with_the_number_of_an_old_group_is_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pgid, _: killed.append(pgid))
    with subprocess.Popen(["sleep", "1000"], process_group=0) as stranger:
        ticks = Path(f"/proc/{stranger.pid}/stat").read_text().split()[21]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        (tmp_path / RECORD).write_text(record.format(pid=stranger.pid, ticks=ticks, boot=boot))
        open_command(tmp_path, "echo 1")
        stranger.kill()
    assert killed == []
    assert records(tmp_path) == []


@pytest.mark.parametrize("record", [b"garbage", b"{boot} x 1", b"{boot} 1", b"\xff"])
def test_a_damaged_record_is_left_aside(tmp_path: Path, record: bytes) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    (tmp_path / RECORD).write_bytes(record.replace(b"{boot}", boot))
    assert run(tmp_path, "echo 1")[0].value == 1
    assert records(tmp_path) == []


def test_the_group_is_noted_while_it_runs_and_no_longer(tmp_path: Path) -> None:
    noted = f'read boot pgid rest < $(echo {tmp_path}/command-*-room.pgid); [ "$pgid" ]'
    until_noted = f"until {noted}; do sleep 0.01; done"
    assert run(tmp_path, f"{until_noted}; expr $pgid - $$ || true")[0].value == 0
    assert records(tmp_path) == []


@pytest.mark.parametrize("name", ["../a/b %", "é" * 64, "/" * 128, "."])
def test_any_sensor_name_makes_a_file_name_of_its_own(tmp_path: Path, name: str) -> None:
    look = f"cd {tmp_path}; until ls command-*.pgid; do sleep 0.01; done >/dev/null; echo 1"
    open_command(tmp_path, look, name=name).read(0, [NOW_US])


def test_it_works_where_nothing_can_be_noted(tmp_path: Path) -> None:
    assert run(tmp_path / "missing", "echo 1") == [Reading("room", 1.0, NOW_US)]


def test_a_record_of_another_user_or_through_a_link_kills_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pgid, _: killed.append(pgid))
    record, elsewhere = tmp_path / RECORD, tmp_path / "elsewhere"
    with subprocess.Popen(["sleep", "1000"], process_group=0) as stranger:
        ticks = Path(f"/proc/{stranger.pid}/stat").read_text().split()[21]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        elsewhere.write_text(f"{boot} {stranger.pid} {ticks}")
        record.symlink_to(elsewhere)
        open_command(tmp_path, "echo 1")
        if not os.geteuid():
            record.unlink(missing_ok=True)
            elsewhere.rename(record)
            os.chown(record, 65534, 65534)
            open_command(tmp_path, "echo 1")
        stranger.kill()
    assert killed == []
