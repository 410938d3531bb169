"""sensor-node-ctl: what each command says, how it exits, and one line for every bad input."""

import json
import os
import sqlite3
import subprocess
import sys
import time

import pytest
from storage_fixtures import (
    POLICY,
    REFUSED,
    ROOM,
    RULES,
    WHO,
    audit,
    deliver,
    events,
    execute,
    fill,
    new_stream,
    park,
    statuses,
)

from sensor_node import __version__
from sensor_node.config.loader import load_config
from sensor_node.control import commands
from sensor_node.control import main as main_module
from sensor_node.core.model import DatedReading, Dropped
from sensor_node.storage.queue.room import SizeLimits
from sensor_node.storage.repository import SensorDataSQLRepository

COMMANDS = [command.name for command in commands.COMMANDS]
# What else a command must be given.
REQUIRED = {"show": ("1",), "requeue": ("1",), "salvage": ("old.db",)}
OF_A_DATABASE = (
    ("messages",),
    ("show", "1"),
    ("history",),
    ("audit",),
    ("requeue", "1"),
    ("requeue", "--dead"),
)
CONFIG = "[node]\nid = edge-01\n[sensor:room]\n"


class Ctl:
    """The command line of one node, run in this process."""

    def __init__(self, directory, monkeypatch, capsys):
        self.file = directory / "config.ini"
        self.file.write_text(CONFIG)
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words):
        """Exit status, output and errors."""
        command = ["sensor-node-ctl", "-c", str(self.file), *words]
        self._monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main_module.main()
        said = self._capsys.readouterr()
        return ended.value.code, said.out, said.err

    def good(self, *words):
        code, out, err = self(*words)
        assert (code, err) == (0, "")
        return out

    def bad(self, *words):
        """Exit status and the one line on standard error."""
        code, out, err = self(*words)
        assert out == ""
        assert err.count("\n") == 1, err
        assert err.startswith("sensor-node-ctl")
        return code, err

    def real(self, *words, stdout=subprocess.PIPE, **environment):
        """As a process of its own, which writes its output when it ends, as an operator's does."""
        command = [sys.executable, "-m", "sensor_node", "-c", str(self.file), *words]
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        return subprocess.run(
            command,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=kept | environment,
        )

    @property
    def config(self):
        return load_config(self.file)


@pytest.fixture
def ctl(tmp_path, monkeypatch, capsys):
    return Ctl(tmp_path, monkeypatch, capsys)


@pytest.fixture
def repository(ctl):
    """The node's database, open in another process so to speak; P3 holds at the end."""
    ctl.config.state_directory.mkdir()
    repository = SensorDataSQLRepository(ctl.config.storage.path)
    repository.begin_run(WHO, time.time(), "a run")
    yield repository
    assert audit(repository) == []
    repository.close()


@pytest.fixture
def stream(repository):
    [(name,)] = repository._database.connection.execute("SELECT name FROM stream")
    return name


def capture(repository, count):
    fill(repository, count, first_us=int(time.time() * 1e6) - count * 1_000_000)


def dead(repository, count):
    """Messages that the sink refused one by one while it took others."""
    for _ in range(count):
        capture(repository, 1)
        claim = repository.claim_fresh("sender", POLICY, time.time(), 1)
        execute(repository, "UPDATE batch SET accepted_at_refusal = -1 WHERE status = 'SENDING'")
        assert repository.settle(claim, REFUSED, RULES, time.time())


class TestHelp:
    def test_lists_every_command_with_what_it_does(self, ctl) -> None:
        out = ctl.good("--help")
        words = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("    ")]
        listed = {line[0]: line[1] for line in words if len(line) == 2}
        for command in COMMANDS:
            assert len(listed[command]) > 5, command

    @pytest.mark.parametrize("command", COMMANDS)
    def test_is_there_for_each_command(self, ctl, command) -> None:
        assert command in ctl.good(command, "--help")

    def test_tells_the_version(self, ctl) -> None:
        assert ctl.good("--version") == f"sensor-node {__version__}\n"


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ((), "COMMAND"),
            (("dance",), "invalid choice: 'dance'"),
            (("status", "--colour"), "unrecognized arguments: --colour"),
            (("status", "now"), "unrecognized arguments: now"),
            (("show",), "ID"),
            (("messages", "--status", "LOST"), "invalid choice: 'LOST'"),
            (("messages", "--status", "sent"), "invalid choice: 'sent'"),
            (("messages", "--since", "yesterday"), "'yesterday': want a duration such as 10m"),
            (("messages", "--since", "10"), "'10': want a duration"),
            (("messages", "--since"), "expected one argument"),
            # Whether that is an argument, each Python's argparse has its own opinion.
            (("messages", "--since", "-1h"), "argument --since: "),
            (("messages", "--limit", "0"), "'0': want a whole number above 0"),
            (("messages", "--limit", "many"), "'many': want a whole number"),
            (("messages", "--limit", "9" * 30), "want a whole number"),
            (("history", "--since", "soon"), "'soon': want a duration"),
            (("requeue",), "name message ids, or --dead, or --in-doubt"),
            (("requeue", "12", "--dead"), "name message ids, or --dead, or --in-doubt"),
            (("requeue", "--all"), "unrecognized arguments: --all"),
            (("sink", "--port", "http"), "invalid int value: 'http'"),
        ],
    )
    def test_is_one_line_and_exit_status_2(self, ctl, words, said) -> None:
        code, line = ctl.bad(*words)
        assert code == 2
        assert said in line
        assert "--help" in line

    @pytest.mark.parametrize("words", OF_A_DATABASE)
    def test_without_a_database_is_one_line(self, ctl, words) -> None:
        code, line = ctl.bad(*words)
        assert code == 1
        assert "there is no database yet; sensor-node-ctl start makes it" in line
        assert not ctl.config.state_directory.exists()

    @pytest.mark.parametrize("words", OF_A_DATABASE)
    def test_with_garbage_for_a_database_is_one_line(self, ctl, words) -> None:
        ctl.config.state_directory.mkdir()
        ctl.config.storage.path.write_bytes(b"garbage" * 1000)
        code, line = ctl.bad(*words)
        assert code == 78
        assert "is not a SQLite database" in line

    @pytest.mark.parametrize("command", COMMANDS)
    def test_with_a_bad_configuration_is_a_line_for_each_mistake(self, ctl, command) -> None:
        if command == "sink":
            return  # needs none
        ctl.file.write_text("[sensor:room]\nrate = fast\n[log]\nlevel = loud\n")
        code, out, err = ctl(command, *REQUIRED.get(command, ()))
        assert code == (4 if command == "status" else 78)
        assert out == ""
        assert err.count("\n") == 2
        assert all(line.startswith(f"sensor-node-ctl: {ctl.file}: [") for line in err.splitlines())

    def test_with_no_configuration_at_all_names_the_file(self, ctl) -> None:
        ctl.file.unlink()
        code, line = ctl.bad("check")
        assert code == 78
        assert f"{ctl.file}: cannot be read: No such file or directory" in line

    @pytest.mark.parametrize(
        "options", [("--port", "99999"), ("--db", "/nonexistent/sink.db"), ("--host", "nowhere.x")]
    )
    def test_for_the_sink_is_one_line(self, ctl, tmp_path, options) -> None:
        database = () if "--db" in options else ("--db", str(tmp_path / "sink.db"))
        code, line = ctl.bad("sink", "--port", "0", *database, *options)
        assert code == 1
        assert "choose another" in line


class TestCheck:
    def test_says_that_a_good_configuration_is_good(self, ctl) -> None:
        assert ctl.good("check") == f"{ctl.file}: good, 1 sensor\n"

    def test_touches_nothing(self, ctl, tmp_path) -> None:
        before = sorted(tmp_path.rglob("*"))
        ctl.good("check")
        ctl.good("check", "--print")
        assert sorted(tmp_path.rglob("*")) == before

    def test_prints_each_effective_value_and_its_file(self, ctl) -> None:
        drop_in = ctl.file.with_suffix(".d") / "late.ini"
        drop_in.parent.mkdir()
        drop_in.write_text("[sink]\nbatch_size = 7\n")
        lines = ctl.good("check", "--print").splitlines()
        assert f"[node] id = edge-01  # {ctl.file}" in lines
        assert f"[sink] batch_size = 7  # {drop_in}" in lines
        assert "[sink] timeout = 30s  # default" in lines
        assert "[sensor:room] waveform = sine  # default" in lines


class TestMessages:
    def test_are_listed_with_their_status_oldest_at_the_top(self, ctl, repository, stream) -> None:
        capture(repository, 3)
        deliver(repository, 1)
        lines = ctl.good("messages").splitlines()
        assert [line.split()[0] for line in lines] == [f"{stream}-{n}" for n in (1, 2, 3)]
        assert [line.split()[3] for line in lines] == ["SENT", "PENDING", "PENDING"]

    def test_are_listed_with_why_they_failed(self, ctl, repository) -> None:
        dead(repository, 1)
        assert ctl.good("messages").rstrip().endswith("400 Bad Request")

    def test_are_the_newest_up_to_the_limit(self, ctl, repository, stream) -> None:
        capture(repository, 50)
        assert len(ctl.good("messages").splitlines()) == 20
        lines = ctl.good("messages", "--limit", "2").splitlines()
        assert [line.split()[0] for line in lines] == [f"{stream}-49", f"{stream}-50"]
        assert len(ctl.good("messages", "--limit", "9" * 18).splitlines()) == 50

    def test_are_those_of_a_status(self, ctl, repository) -> None:
        capture(repository, 4)
        deliver(repository, 1)
        park(repository, 1)
        repository.claim_fresh("sender", POLICY, time.time(), 1)
        for status in ("SENT", "DEAD", "SENDING", "PENDING"):
            [line] = ctl.good("messages", "--status", status).splitlines()
            assert line.split()[3] == status
        assert ctl.good("messages", "--status", "IN_DOUBT") == "no such messages\n"

    def test_are_those_of_the_last_while(self, ctl, repository) -> None:
        capture(repository, 100)
        assert 8 <= len(ctl.good("messages", "--since", "10s").splitlines()) <= 11

    def test_are_all_if_the_while_is_longer_than_time_itself(self, ctl, repository) -> None:
        capture(repository, 3)
        assert len(ctl.good("messages", "--since", "99999999999999d").splitlines()) == 3

    def test_are_json_for_programs_newest_first(self, ctl, repository, stream) -> None:
        capture(repository, 2)
        first, second = json.loads(ctl.good("messages", "--json"))
        assert (first["id"], second["id"]) == (f"{stream}-2", f"{stream}-1")
        assert set(first) == {
            *("id", "local_id", "status", "name", "value", "timestamp", "captured_at"),
            *("attempts", "next_attempt_at", "last_error"),
        }
        assert first["timestamp"].endswith("Z")
        assert json.loads(ctl.good("messages", "--json", "--status", "DEAD")) == []

    def test_are_those_captured_lately_whatever_time_they_give_themselves(
        self, ctl, repository
    ) -> None:
        now_us = int(time.time() * 1e6)
        yesterday = DatedReading("logger", 1.0, now_us - 86_400_000_000, now_us)
        tomorrow = DatedReading("logger", 2.0, now_us + 86_400_000_000, now_us - 86_400_000_000)
        repository.capture([tomorrow, yesterday], [], 0.0, ROOM)
        [found] = json.loads(ctl.good("messages", "--since", "1h", "--json"))
        assert found["value"] == 1.0
        assert found["timestamp"] < found["captured_at"]

    @pytest.mark.parametrize("when", [-62_135_596_800, 0, 253_402_300_799])
    def test_are_listed_whatever_a_clock_once_said(self, ctl, repository, when) -> None:
        fill(repository, 1, first_us=when * 1_000_000)
        assert ctl.good("messages").count("\n") == 1
        assert ctl.good("messages", "--since", "99999999999999d").count("\n") == 1
        assert len(json.loads(ctl.good("messages", "--json"))) == 1


class TestShow:
    def test_finds_a_message_by_the_id_that_the_sink_has(self, ctl, repository, stream) -> None:
        capture(repository, 3)
        out = ctl.good("show", f"{stream}-2")
        assert f"id              {stream}-2" in out
        assert "status          PENDING" in out
        assert "last_error" not in out

    def test_finds_it_by_its_local_number(self, ctl, repository, stream) -> None:
        capture(repository, 3)
        assert json.loads(ctl.good("show", "2", "--json"))["id"] == f"{stream}-2"

    def test_tells_how_often_it_was_tried_and_the_last_error(self, ctl, repository) -> None:
        dead(repository, 1)
        found = json.loads(ctl.good("show", "1", "--json"))
        assert found["status"] == "DEAD"
        assert found["attempts"] == 1
        assert found["last_error"] == "400 Bad Request"

    @pytest.mark.parametrize(
        "text",
        ["0", "4", "-1", "x", "", "x-1", "1-1", "2" * 24 + "-1", "9" * 19, "9" * 60, "²", "1.0"],
    )
    def test_of_what_there_is_not_is_one_line(self, ctl, repository, text) -> None:
        capture(repository, 3)
        code, line = ctl.bad("show", "--", text)
        assert code == 1
        assert "there is no such message" in line

    def test_says_what_became_of_one_that_was_deleted(self, ctl, repository) -> None:
        capture(repository, 2)
        deliver(repository, 1)
        repository.purge(0, None, time.time())
        repository.evict_oldest("max_size", time.time())
        assert "was delivered, and deleted after keep_sent" in ctl.bad("show", "1")[1]
        assert "was given up for want of room" in ctl.bad("show", "2")[1]

    def test_says_what_became_of_a_number_whose_stream_is_forgotten(
        self, ctl, repository, stream
    ) -> None:
        """As a sink may have it that names what it has not received."""
        capture(repository, 1)
        deliver(repository, 1)
        new_stream(repository)
        capture(repository, 1)
        repository.purge(0, None, time.time())
        _, line = ctl.bad("show", f"{stream}-1")
        assert "there is no such message; number 1 was delivered, and deleted" in line
        assert "was delivered, and deleted after keep_sent" in ctl.bad("show", "1")[1]


class TestHistory:
    def test_tells_what_happened_oldest_first(self, ctl, repository) -> None:
        repository.record_event(time.time(), "clock step", "+60.0 s")
        first, second = ctl.good("history").splitlines()
        assert first.endswith("started          node edge-01")
        assert second.endswith("clock step       +60.0 s")

    def test_tells_how_many_readings_were_dropped_and_from_when_to_when(
        self, ctl, repository
    ) -> None:
        drop = Dropped("disk full", 7, 1_795_419_878_000_000, 1_795_419_879_000_000)
        repository.capture([], [drop], time.time(), SizeLimits(1 << 40, 0))
        [line] = [line for line in ctl.good("history").splitlines() if "dropped" in line]
        assert "disk full, 7 readings, between 2026-11-23 " in line

    def test_tells_which_readings_were_given_up(self, ctl, repository) -> None:
        capture(repository, 5)
        repository.evict_oldest("max_size", time.time())
        assert "evicted          max_size, 5 readings, ids 1 to 5" in ctl.good("history")

    def test_does_not_claim_a_range_of_what_happened_in_parts(self, ctl, repository) -> None:
        dead(repository, 3)
        for message_id in (1, 3):
            repository.requeue(message_id, message_id, time.time())
        assert "requeued         2 readings, among ids 1 to 3" in ctl.good("history")

    def test_tells_once_what_happened_many_times(self, ctl, repository) -> None:
        for second in range(10):
            repository.record_event(time.time() - 10 + second, "process died", "sender-1")
        assert "process died     sender-1, 10 times within 9s" in ctl.good("history")

    def test_tells_of_a_flood_how_often_and_what_it_was_at_last(self, ctl, repository) -> None:
        now = time.time()
        for outage in range(100):
            at = now - 7200 + 60 * outage if outage < 2 else now - 1000 + 10 * outage
            repository.record_event(at, "sink down", "connection refused")
            repository.record_event(at + 5, "sink up", f"after 5 s, backlog {outage}: refused")
        told = ctl.good("history")
        assert "sink down        79 times within 13m, last: connection refused\n" in told
        assert "sink up          79 times within 13m, last: after 5 s, backlog 99: refused" in told

    def test_is_of_the_last_week_unless_asked_for_more(self, ctl, repository) -> None:
        repository.record_event(time.time() - 8 * 86_400, "clock step", "long ago")
        assert "long ago" not in ctl.good("history")
        assert "long ago" in ctl.good("history", "--since", "9d")
        assert "long ago" in ctl.good("history", "--since", "99999999999999d")

    def test_may_be_empty(self, ctl, repository) -> None:
        execute(repository, "DELETE FROM event")
        assert ctl.good("history") == "nothing happened\n"
        assert json.loads(ctl.good("history", "--json")) == []

    def test_is_json_for_programs(self, ctl, repository) -> None:
        [started] = json.loads(ctl.good("history", "--json"))
        assert set(started) == {"at", "until", "kind", "detail", "n", "first", "last"}
        assert started["kind"] == "started"
        assert started["at"].endswith("Z")


class TestRequeue:
    def test_sends_messages_again_by_their_ids(self, ctl, repository, stream) -> None:
        dead(repository, 3)
        assert ctl.good("requeue", f"{stream}-1", "3") == "requeued 2 messages\n"
        assert statuses(repository) == {1: "FAILED", 2: "DEAD", 3: "FAILED"}
        assert events(repository, "requeued") == [""]

    @pytest.mark.parametrize("wrong", ["0", "-1", "4", "{stream}-4", "{other}-1", "x"])
    def test_of_an_id_that_no_message_has_is_an_error(self, ctl, repository, stream, wrong) -> None:
        """The whole id is compared: another stream's number 1 is another reading."""
        dead(repository, 3)
        text = wrong.format(stream=stream, other="0" * 24)
        line = f"sensor-node-ctl: no such message: {text}\n"
        assert ctl("requeue", "--", text) == (1, "requeued 0 messages\n", line)
        assert set(statuses(repository).values()) == {"DEAD"}

    def test_sends_all_that_are_dead(self, ctl, repository) -> None:
        dead(repository, 5)
        assert ctl.good("requeue", "--dead") == "requeued 5 messages\n"
        assert set(statuses(repository).values()) == {"FAILED"}
        assert ctl.good("requeue", "--dead") == "requeued 0 messages\n"

    def test_sends_all_that_are_in_doubt_and_no_others(self, ctl, repository) -> None:
        capture(repository, 5)
        park(repository, 2, status="IN_DOUBT")
        park(repository, 2)
        assert ctl.good("requeue", "--in-doubt") == "requeued 2 messages\n"
        assert statuses(repository) == {
            1: "FAILED",
            2: "FAILED",
            3: "DEAD",
            4: "DEAD",
            5: "PENDING",
        }

    def test_sends_both_if_asked_to(self, ctl, repository) -> None:
        capture(repository, 4)
        park(repository, 2, status="IN_DOUBT")
        park(repository, 2)
        assert ctl.good("requeue", "--in-doubt", "--dead") == "requeued 4 messages\n"

    def test_sends_a_delivered_one_again_if_it_is_named(self, ctl, repository) -> None:
        capture(repository, 3)
        deliver(repository, 3)
        ctl.good("requeue", "2")
        assert statuses(repository) == {1: "SENT", 2: "FAILED", 3: "SENT"}

    def test_names_those_that_cannot_be_and_sends_the_others(self, ctl, repository) -> None:
        dead(repository, 1)
        capture(repository, 1)
        code, out, err = ctl("requeue", "1", "2", "99", "x")
        assert code == 1
        assert out == "requeued 1 message\n"
        assert (
            err == "sensor-node-ctl: no such message: 99, x; neither DEAD, IN_DOUBT nor SENT: 2\n"
        )

    def test_makes_them_due_now(self, ctl, repository) -> None:
        dead(repository, 1)
        ctl.good("requeue", "1")
        assert repository.claim_due("retrier", POLICY, time.time(), 100) is not None


class TestAudit:
    def test_holds_where_every_reading_is_accounted_for(self, ctl, repository) -> None:
        capture(repository, 10)
        deliver(repository, 4)
        park(repository, 1)
        out = ctl.good("audit")
        assert "captured 10 = pending 5 + in flight 0 + failed 0 + sent 4 + dead 1" in out
        assert out.endswith("audit: every reading is accounted for\n")

    def test_exits_1_and_says_what_is_wrong_where_one_is_missing(self, ctl, repository) -> None:
        capture(repository, 3)
        deliver(repository, 3)
        execute(repository, "DELETE FROM message WHERE id = 2")
        code, out, err = ctl("audit")
        assert (code, err) == (1, "")
        assert "batch range 1-3: SENT, but has 2 rows" in out
        assert out.endswith("audit: 1 things are wrong\n")
        execute(repository, "INSERT INTO message VALUES (2, 'SENT', 'room', 1.0, 1, NULL)")

    def test_recounts_rows_and_does_not_believe_the_counters(self, ctl, repository) -> None:
        capture(repository, 3)
        deliver(repository, 3)
        execute(repository, "UPDATE tally SET n = n + 1 WHERE status = 'SENT'")
        assert ctl("audit")[0] == 1
        execute(repository, "UPDATE tally SET n = n - 1 WHERE status = 'SENT'")


class TestANodeThatDoesNotRun:
    def test_is_stopped_already(self, ctl) -> None:
        assert ctl.good("stop") == "not running\n"

    def test_does_not_start_with_a_directory_for_a_database(self, ctl, tmp_path) -> None:
        ctl.file.write_text(f"{CONFIG}[storage]\npath = {tmp_path}\n")
        code, line = ctl.bad("start")
        assert code == 78
        assert f"{tmp_path}: is no file; set another [storage] path" in line

    def test_cannot_be_reloaded(self, ctl) -> None:
        code, line = ctl.bad("reload")
        assert code == 1
        assert "not running; start it with: sensor-node-ctl start" in line

    @pytest.mark.parametrize("command", ["start", "run"])
    def test_does_not_start_where_its_directory_cannot_be_made(
        self, ctl, command, monkeypatch
    ) -> None:
        monkeypatch.setattr("sensor_node.system.log.configure", lambda level, file: None)
        ctl.config.state_directory.write_text("a file is in the way")
        umask = os.umask(0o022)
        try:
            code, line = ctl.bad(command)
        finally:
            os.umask(umask)
        assert code == 78
        assert "sensor-node-data: cannot be made: File exists" in line


class TestTheOutput:
    def test_may_be_more_than_its_reader_wants(self, ctl) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        done = ctl.real("check", "--print", stdout=writer)
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, "")

    def test_that_cannot_be_written_is_one_line(self, ctl) -> None:
        with open("/dev/full", "w") as full:
            done = ctl.real("check", "--print", stdout=full)
        assert done.returncode == 1
        assert done.stderr == "sensor-node-ctl: output: No space left on device\n"

    def test_is_shown_as_well_as_the_locale_can(self, ctl) -> None:
        ctl.file.write_text("[node]\nid = Würzburg °C\n[sensor:room]\n")
        done = ctl.real("status", PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (3, "")
        assert r"node       W\xfcrzburg \xb0C" in done.stdout


@pytest.mark.parametrize(
    "change",
    [
        "DROP VIEW message_status",
        "DROP TABLE tally",
        "DROP TABLE sink",
        "DROP TABLE event",
        "UPDATE event SET detail = x'ff'",
        "UPDATE event SET at = 'x'",
        "UPDATE message SET name = x'ff00'",
        "UPDATE batch SET last_error = x'ff'",
    ],
)
def test_a_database_that_another_program_has_changed_is_one_line(ctl, change):
    ctl.config.state_directory.mkdir()
    repository = SensorDataSQLRepository(ctl.config.storage.path)
    repository.begin_run(WHO, time.time(), "a run")
    fill(repository, 3)
    repository.close()
    other = sqlite3.connect(ctl.config.storage.path)
    other.execute(change)
    other.commit()
    other.close()
    for command in ("status", "messages --json", "show 1", "history --json", "requeue --dead"):
        done = ctl.real(*command.split())
        assert "Traceback" not in done.stderr, command
        assert done.stderr.count("\n") <= 1, command
