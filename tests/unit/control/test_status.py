"""P7: `status` knows everything there is to know, on its worst day too, and shows it in order."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from clocks import WALL, ManualClock
from storage_fixtures import (
    DELIVERED,
    POLICY,
    RULES,
    WHO,
    deliver,
    fail,
    fill,
    park,
    set_sink,
)

from sensor_node.config.loader import load_config
from sensor_node.control import status_report, status_text
from sensor_node.control.status_report import NO_RATES, buffered
from sensor_node.control.times import utc
from sensor_node.core.errors import LOCKED
from sensor_node.core.model import Dropped, Reading, VitalSigns
from sensor_node.processes import owner
from sensor_node.storage.engine import holders
from sensor_node.storage.queue.room import SizeLimits
from sensor_node.storage.repository import SensorDataSQLRepository
from sensor_node.supervision.pidfile import pid_file, write_pid_file
from sensor_node.supervision.states import ChildReport, Report, read_report, write_report

NOW_US = int(WALL * 1e6)
# An interface: keys are added, never renamed or taken away.
KEYS = {
    "": {
        "node",
        "version",
        "state",
        "since",
        "processes",
        "sink",
        "counts",
        "oldest_undelivered_seconds",
        "rates",
        "drain_eta_seconds",
        "storage",
        "sqlite",
        "sensors",
        "problems",
    },
    "sink": {"url", "state", "since", "reason", "next_probe_at"},
    "counts": {
        "captured",
        "pending",
        "in_flight",
        "failed",
        "sent",
        "dead",
        "in_doubt",
        "evicted",
        "dropped",
        "purged",
    },
    "rates": {"captured", "delivered", "seconds"},
    "storage": {"path", "database_bytes", "wal_bytes", "limit_bytes", "disk_free_bytes"},
    "sqlite": {"version", "wal_reset_bug"},
}
SENSOR_KEYS = {
    *("name", "source", "rate", "last_at", "last_value", "age_seconds"),
    *("readings", "failures", "error", "error_at", "failing", "silent"),
}
PROCESS_KEYS = {"role", "pid", "state", "since", "restarts", "keeps_dying", "rss_bytes"}


class Node:
    """A node in a directory: its configuration, perhaps a database, perhaps a supervisor."""

    def __init__(self, directory):
        self.directory = directory
        self.file = directory / "config.ini"
        self.file.write_text("[node]\nid = edge-01\n[sensor:room]\n[storage]\nmin_free = 0\n")
        self.config = load_config(self.file)
        self.clock = ManualClock()
        # It is an hour and a minute since this process has started.
        started = owner.start_ticks(os.getpid()) / owner.TICKS_A_SECOND
        self.clock.boottime = started + 3660
        self.repository = None

    def make_database(self):
        self.config.state_directory.mkdir(exist_ok=True)
        self.repository = SensorDataSQLRepository(self.config.storage.path)
        self.repository.begin_run(WHO, WALL, "a run")
        return self.repository

    def run(self, **changes):
        """As if this process were the supervisor; what keeps its pid file locked."""
        self.config.state_directory.mkdir(exist_ok=True)
        locked = write_pid_file(self.config)
        child = replace(generator(), restarts=1)
        idle = replace(child, name="sender-1", role="sender", pid=None, state="BACKOFF")
        report = Report(
            pid=os.getpid(),
            version="0.1.0",
            config=str(self.file),
            node=self.config.node_id,
            since=WALL - 3660 - 86_400,  # by a clock that has been set since
            ready=True,
            reloads=0,
            stopping=False,
            problem="",
            processes=[child, idle],
            settings=list(self.config.effective),
        )
        write_report(self.config, replace(report, **changes))
        return locked

    def status(self):
        return status_report.take(self.config, self.clock.now())

    def text(self, *, colour=False):
        return status_text.render(self.status(), colour=colour)

    def ctl(self, *words, **options):
        command = [sys.executable, "-m", "sensor_node", "-c", str(self.file), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.fixture
def node(tmp_path, monkeypatch):
    # Whatever file system the tests happen to be on.
    monkeypatch.setattr(status_report, "complaint", lambda path: ("", False))
    node = Node(tmp_path)
    yield node
    if node.repository:
        node.repository.close()


@pytest.fixture
def busy(node):
    """A running node with some of everything."""
    repository = node.make_database()
    repository.sample(node.clock.boottime - 10)
    fill(repository, 20, first_us=NOW_US - 100_000_000)
    claim = repository.claim_fresh("sender", POLICY, WALL, 5)
    assert repository.settle(claim, DELIVERED, RULES, WALL)
    fail(repository, 4, due_at=WALL + 60)
    park(repository, 2)
    park(repository, 1, status="IN_DOUBT")
    repository.claim_fresh("sender", POLICY, WALL, 3)
    set_sink(repository, state="DOWN", since=WALL - 30, reason="503 Busy", next_probe_at=WALL + 90)
    node.run()
    return node


class TestTheJson:
    def test_tells_what_is_being_dropped_but_not_what_once_was(self, busy) -> None:
        def drop(reason, when):
            at = int(when * 1e6)
            busy.repository.capture([], [Dropped(reason, 2, at, at)], when, SizeLimits(1 << 40, 0))

        drop("late", WALL - 100)
        drop("sensor room failed", WALL - 10)
        assert busy.status()["dropping"] == [
            {"reason": "sensor room failed", "readings": 2, "seconds": 10.0}
        ]

    def test_shows_no_process_that_is_gone_as_running(self, node) -> None:
        with subprocess.Popen(["true"]) as gone:
            gone.wait()
        node.run(processes=[replace(generator(), pid=gone.pid, trouble="")])
        [process] = node.status()["processes"]
        assert (process["pid"], process["state"]) == (None, "DIED")
        assert "generator DIED" in node.text()

    def test_tells_of_a_program_that_holds_the_log_while_it_does(self, busy, monkeypatch) -> None:
        shell = holders.Holder(8, "sqlite3", writes=False)
        monkeypatch.setattr(holders, "find", lambda path, supervisor: [shell])
        assert busy.status()["holders"] == []
        assert busy.status()["storage"]["log_held"] is None
        busy.repository.record_event(WALL - 300, "log held", "sqlite3 (pid 7)")
        found = busy.status()
        assert found["holders"] == [{"pid": 8, "name": "sqlite3", "writes": False}]
        assert found["storage"]["log_held"] == {
            "since": utc(WALL - 300),
            "seconds": 300.0,
            "by": "sqlite3 (pid 7)",
            "tight": False,
        }
        assert "sqlite3 (pid 8) has held a read transaction" in busy.text()
        busy.repository.record_event(WALL, "log free", "")
        assert busy.status()["storage"]["log_held"] is None

    def test_tells_who_keeps_others_from_writing_and_for_how_long(self, busy, monkeypatch) -> None:
        shell = holders.Holder(8, "sqlite3", writes=True)
        monkeypatch.setattr(holders, "find", lambda path, supervisor: [shell])
        [generator, sender] = read_report(busy.config.runtime_directory).processes
        locked = replace(generator, trouble=LOCKED, trouble_since=WALL - 120)
        busy.run(processes=[locked, sender])
        found = busy.status()
        assert found["processes"][0]["trouble_seconds"] == 120.0
        assert "(generator), for 2m: by sqlite3 (pid 8)" in str(found["problems"])

    def test_has_every_key_of_the_interface(self, busy) -> None:
        found = busy.status()
        for part, keys in KEYS.items():
            assert keys <= set(found[part] if part else found), part
        for process in found["processes"]:
            assert set(process) >= PROCESS_KEYS
        for problem in found["problems"]:
            assert set(problem) == {"what", "hint"}

    def test_is_json(self, busy) -> None:
        found = busy.status()
        assert json.loads(json.dumps(found)) == found

    def test_tells_the_node_and_since_when_it_runs(self, busy) -> None:
        found = busy.status()
        assert (found["node"], found["state"]) == ("edge-01", "running")
        assert found["since"] == "2026-11-23T06:43:38Z"
        assert found["uptime_seconds"] == pytest.approx(3660)

    def test_tells_the_processes(self, busy) -> None:
        generator, sender = busy.status()["processes"]
        assert (generator["role"], generator["pid"], generator["restarts"]) == (
            "generator",
            os.getpid(),
            1,
        )
        assert generator["rss_bytes"] > 1_000_000
        assert (sender["state"], sender["pid"], sender["rss_bytes"]) == ("BACKOFF", None, None)

    def test_tells_the_sink(self, busy) -> None:
        sink = busy.status()["sink"]
        assert (sink["state"], sink["reason"]) == ("DOWN", "503 Busy")
        assert sink["next_probe_at"] == "2026-11-23T07:46:08Z"
        assert sink["since"] == "2026-11-23T07:44:08Z"

    def test_tells_the_counts_and_they_add_up(self, busy) -> None:
        counts = busy.status()["counts"]
        assert counts == {
            "captured": 20,
            "pending": 5,
            "in_flight": 3,
            "failed": 4,
            "sent": 5,
            "dead": 2,
            "in_doubt": 1,
            "evicted": 0,
            "dropped": 0,
            "purged": 0,
        }

    def test_tells_how_far_behind_it_is(self, busy) -> None:
        # The oldest that is undelivered was the sixth to be captured, one a second.
        assert busy.status()["oldest_undelivered_seconds"] == pytest.approx(95)

    def test_tells_rates_of_the_last_minute_and_when_the_backlog_is_gone(self, node) -> None:
        repository = node.make_database()
        node.run()
        repository.sample(node.clock.boottime)
        fill(repository, 100)
        claim = repository.claim_fresh("sender", POLICY, WALL, 80)
        assert repository.settle(claim, DELIVERED, RULES, WALL)
        node.clock.advance(20)
        assert node.status()["rates"] == {"captured": 5.0, "delivered": 4.0, "seconds": 20.0}
        assert node.status()["drain_eta_seconds"] is None

    def test_tells_a_drain_time_only_while_it_drains(self, node) -> None:
        repository = node.make_database()
        node.run()
        fill(repository, 100)
        repository.sample(node.clock.boottime)
        claim = repository.claim_fresh("sender", POLICY, WALL, 50)
        assert repository.settle(claim, DELIVERED, RULES, WALL)
        node.clock.advance(10)
        assert node.status()["drain_eta_seconds"] == 10.0
        claim = repository.claim_fresh("sender", POLICY, WALL, 50)
        assert repository.settle(claim, DELIVERED, RULES, WALL)
        assert node.status()["drain_eta_seconds"] == 0.0

    def test_tells_no_rates_just_after_the_start(self, node) -> None:
        node.make_database()
        node.run()
        assert node.status()["rates"] == NO_RATES

    def test_tells_after_an_outage_the_rate_since_the_sink_came_up(self, node) -> None:
        """Half a minute without delivery does not make it slow."""
        repository = node.make_database()
        node.run()
        fill(repository, 600)
        for _ in range(5):
            repository.sample(node.clock.boottime)
            fill(repository, 10)
            node.clock.advance(10)
        set_sink(repository, since=node.clock.wall)
        assert node.status()["drain_eta_seconds"] is None
        node.clock.advance(4)
        for _ in range(2):
            deliver(repository, 100)
        found = node.status()
        assert found["rates"] == {"captured": 0.926, "delivered": 50.0, "seconds": 4.0}
        assert found["drain_eta_seconds"] == pytest.approx(450 / (50 - 0.926), abs=0.1)
        assert "0.926/s captured, 50/s delivered in 4s, drained in 9s" in node.text()

    def test_tells_a_sane_drain_time_while_it_keeps_up(self, node) -> None:
        """One reading is on its way; a gain of next to nothing would make hours of that."""
        repository = node.make_database()
        node.run()
        fill(repository, 1)
        repository.sample(node.clock.boottime)
        fill(repository, 60)
        deliver(repository, 60)
        node.clock.advance(60)
        assert node.status()["drain_eta_seconds"] == 1.0

    def test_tells_a_drain_time_within_the_rate_limit(self, node) -> None:
        """At the start a second's worth goes at once."""
        node.file.write_text(node.file.read_text() + "[sink]\nmax_rate = 10\n")
        node.config = load_config(node.file)
        repository = node.make_database()
        node.run()
        fill(repository, 120)
        repository.sample(node.clock.boottime)
        deliver(repository, 20)
        node.clock.advance(1)
        assert node.status()["drain_eta_seconds"] == 10.0

    def test_tells_no_rates_of_a_run_that_is_over(self, busy) -> None:
        pid_file(busy.config.runtime_directory).unlink()
        found = busy.status()
        assert found["rates"] == NO_RATES
        assert found["drain_eta_seconds"] is None

    def test_tells_how_much_disk_there_is(self, busy) -> None:
        storage = busy.status()["storage"]
        assert storage["database_bytes"] > 10_000
        assert storage["limit_bytes"] == 256 * 1024**2
        assert storage["disk_free_bytes"] > 0
        assert storage["wal_bytes"] > 0

    def test_tells_which_sqlite_this_is(self, node) -> None:
        assert node.status()["sqlite"]["version"] == sqlite3.sqlite_version


class TestTheSensors:
    """The node's vital signs, and what they say of a generator that writes none."""

    @pytest.fixture
    def sensing(self, node):
        """A running node whose generator has begun, with two sensors of one and 60 seconds."""
        node.file.write_text(node.file.read_text() + "[sensor:load]\nsource = host\nrate = 1/min\n")
        node.config = load_config(node.file)
        node.make_database()
        node.run(ready=True, processes=[generator()])
        node.repository.begin_run(WHO, WALL, owner.own_owner_id("supervisor"))
        node.repository.watch_sensors({"room": 10.0, "load": 180.0}, node.clock.monotonic)
        return node

    def capture(self, node, *changes, name="room", count=1, value=None):
        """Readings of this moment, and signs of this moment."""
        now = node.clock.now()
        signs = [VitalSigns(name, now.monotonic)._replace(**one) for one in changes]
        taken = [Reading(name, 21.5, now.wall_us) for _ in range(count)]
        node.repository.capture(taken, [], now.wall, SizeLimits(1 << 40, 0), signs)

    def sensors(self, node):
        return {one["name"]: one for one in node.status()["sensors"]}

    def said(self, node):
        """The problems with sensors; there is no sink that could be one."""
        return [(problem["what"], problem["hint"]) for problem in node.status()["problems"]]

    def test_are_told_with_their_keys_also_where_nothing_is_known(self, node) -> None:
        [found] = node.status()["sensors"]
        assert set(found) >= SENSOR_KEYS
        assert (found["name"], found["source"], found["rate"]) == ("room", "mock", 1.0)
        assert (found["last_at"], found["age_seconds"], found["readings"]) == (None, None, 0)

    def test_tell_their_last_reading_and_counts_as_they_are_this_moment(self, sensing) -> None:
        self.capture(sensing, {"readings": 40, "failures": 2, "heard_at": 1000.0}, count=3)
        sensing.clock.advance(2)
        found = self.sensors(sensing)["room"]
        assert (found["readings"], found["failures"]) == (43, 2)
        assert (found["last_value"], found["last_at"]) == (21.5, "2026-11-23T07:44:38Z")
        assert found["age_seconds"] == 2.0
        assert self.said(sensing) == []

    def test_are_rows_of_the_text_twenty_at_most(self, sensing) -> None:
        self.capture(sensing, count=1000)
        text = sensing.text()
        assert "\nsensor     room: 21.5, 0s ago, 1000 readings\n" in text
        assert "\nsensor     load: no reading yet\n" in text
        more = "".join(f"[sensor:s{n}]\n" for n in range(30))
        sensing.file.write_text(sensing.file.read_text() + more)
        sensing.config = load_config(sensing.file)
        rows = [line for line in sensing.text().splitlines() if line.startswith("sensor ")]
        assert len(rows) == 21
        assert rows[-1] == "sensor     and 12 more"

    def test_that_failed_last_are_a_problem_however_long_ago(self, sensing) -> None:
        error = "no host reading: [Errno 2]; check path"
        self.capture(sensing, {"failing": True, "error": error, "error_us": NOW_US})
        sensing.clock.advance(11)
        self.capture(sensing)
        assert self.said(sensing) == [
            ("sensor room failed: no host reading: [Errno 2]", "check path")
        ]
        found = self.sensors(sensing)["room"]
        assert (found["failing"], found["error"]) == (True, error)
        assert found["error_at"] == "2026-11-23T07:44:38Z"
        self.capture(sensing, {"failing": False})
        assert self.said(sensing) == []

    def test_are_listed_also_if_another_ones_readings_bear_the_name_of_a_new_one(
        self, sensing
    ) -> None:
        sensing.file.write_text(sensing.file.read_text() + "[sensor:new]\n")
        sensing.config = load_config(sensing.file)
        self.capture(sensing, name="new")
        assert "new: no reading yet" in sensing.text()

    def test_that_are_silent_are_one_problem(self, sensing) -> None:
        self.capture(sensing, {"silent": True}, name="load", count=0)
        self.capture(sensing, {"silent": True})
        sensing.clock.advance(1)
        [(what, _)] = self.said(sensing)
        assert what == "no reading of load for 1s", "room gave one along with its signs"
        self.capture(sensing, {"silent": True}, count=0)
        sensing.clock.advance(8)
        [(what, _)] = self.said(sensing)
        assert what == "no reading of room and load for 9s"

    def test_are_silent_though_the_generator_does_not_say_so(self, sensing) -> None:
        self.capture(sensing, {"heard_at": 1000.0})
        sensing.clock.advance(19)
        assert self.said(sensing) == []
        sensing.clock.advance(2)
        assert [what for what, _ in self.said(sensing)] == ["no reading of room for 21s"]
        assert self.sensors(sensing)["room"]["silent"]
        sensing.clock.advance(180)
        [(what, _)] = self.said(sensing)
        assert what == "no reading of room and load for 3m 21s"

    def test_are_not_silent_because_commits_are_far_apart(self, sensing) -> None:
        text = sensing.file.read_text()
        sensing.file.write_text(text.replace("min_free", "commit_interval = 1m\nmin_free"))
        sensing.config = load_config(sensing.file)
        sensing.clock.advance(79)
        assert self.said(sensing) == []

    def test_are_not_silent_because_a_clock_was_set_or_the_machine_slept(self, sensing) -> None:
        self.capture(sensing, {"heard_at": 1000.0})
        sensing.clock.advance(3)
        sensing.clock.wall += 86_400
        assert self.said(sensing) == []
        assert self.sensors(sensing)["room"]["age_seconds"] == 3.0
        sensing.clock.wall -= 200_000
        assert self.said(sensing) == []
        sensing.clock.suspend(7200)
        assert self.said(sensing) == []

    def test_are_not_silent_while_readings_wait_for_the_database(self, sensing) -> None:
        self.capture(sensing)
        sensing.run(ready=True, processes=[replace(generator(), trouble="disk full")])
        sensing.clock.advance(100)
        [(what, _)] = self.said(sensing)
        assert what.startswith("the database cannot be used: disk full")

    def test_are_not_silent_in_a_node_that_is_stopped_or_has_just_begun(self, sensing) -> None:
        self.capture(sensing, {"silent": True, "failing": True, "error": "x; y"})
        sensing.clock.advance(100)
        sensing.repository.begin_run(WHO, WALL, "another run")
        assert not self.sensors(sensing)["load"]["silent"]
        pid_file(sensing.config.runtime_directory).unlink()
        assert self.said(sensing) == []
        assert not self.sensors(sensing)["room"]["silent"]
        assert self.sensors(sensing)["room"]["age_seconds"] == 100.0

    def test_whose_ticks_do_not_add_up_are_a_problem(self, sensing) -> None:
        self.capture(sensing, {"unaccounted": 7})
        [(what, hint)] = self.said(sensing)
        assert what == "7 ticks of room are neither taken nor dropped"
        assert "fault of the program" in hint

    def test_by_name_are_steered_by_nobody(self, sensing) -> None:
        self.capture(sensing, {"failing": True, "error": "\x1b[2J; \x1b]0;x\x07"})
        assert "\x1b" not in sensing.text()


def generator():
    """As the supervisor reports it."""
    return ChildReport(
        name="generator",
        role="generator",
        pid=os.getpid(),
        owner=owner.own_owner_id("generator"),
        state="RUNNING",
        since=WALL - 60,
        restarts=0,
        died_before=0.0,
        trouble="",
        trouble_since=0.0,
    )


@pytest.mark.parametrize(("ago", "is_told"), [(599, True), (601, False), (-86_400, False)])
def test_who_died_twice_in_ten_minutes_is_a_problem_while_it_runs(node, ago, is_told) -> None:
    node.run(processes=[replace(generator(), restarts=2, died_before=WALL - ago)])
    [process] = node.status()["processes"]
    assert process["keeps_dying"] == is_told
    told = [problem["what"] for problem in node.status()["problems"]]
    assert ("generator has died 2 times" in told) == is_told


class TestTheState:
    def test_is_stopped_where_there_is_no_pid_file(self, node) -> None:
        assert node.status()["state"] == "stopped"

    def test_is_dead_where_a_pid_file_names_nobody(self, node) -> None:
        os.close(node.run())
        pid_file(node.config.runtime_directory).write_text("812\nsupervisor:another-boot:812:1\n")
        found = node.status()
        assert (found["state"], found["processes"]) == ("dead", [])
        assert found["problems"][0]["what"] == "the supervisor died"

    def test_is_unknown_where_somebody_holds_a_pid_file_that_names_nobody_here(self, node) -> None:
        """In another container; so the kernel tells."""
        node.run()
        pid_file(node.config.runtime_directory).write_text("812\nsupervisor:another-boot:812:1\n")
        found = node.status()
        assert (found["state"], found["processes"]) == ("unknown", [])
        assert "cannot be seen from here" in found["problems"][0]["what"]

    def test_is_starting_until_every_process_is_ready(self, node) -> None:
        node.run(ready=False)
        assert node.status()["state"] == "starting"

    def test_tells_of_a_reload_that_was_refused(self, node) -> None:
        node.run(problem="config.ini: [log] level = 'x'", processes=[])
        [problem] = node.status()["problems"]
        assert problem["what"] == "the last reload was refused: config.ini: [log] level = 'x'"


class TestTheText:
    def test_begins_with_what_is_wrong_and_its_hint(self, busy) -> None:
        lines = busy.text().splitlines()
        assert lines[0] == "! sender-1 has died 1 times"
        assert lines[1].startswith("    it is started again")
        assert lines[2] == "! the sink is DOWN: 503 Busy"
        assert lines[lines.index("") + 1] == "node       edge-01"

    def test_begins_with_the_node_if_nothing_is_wrong(self, node) -> None:
        node.make_database()
        assert node.text().splitlines()[0] == "node       edge-01"

    def test_is_aligned(self, busy) -> None:
        lines = busy.text().split("\n\n")[1].splitlines()
        assert len(lines) > 10
        for line in lines:
            assert line[10] == " ", line
            assert line[11] != " ", line
        meanings = [line.index("(") for line in lines if line.endswith(")") and "waiting" in line]
        assert len(set(meanings)) <= 2

    def test_tells_what_the_json_tells(self, busy) -> None:
        text = busy.text()
        for said in (
            "state      running for 1h 1m",
            f"processes  generator {os.getpid()}, sender-1 BACKOFF",
            "sink       http://127.0.0.1:8470/telemetry is DOWN",
            "pending    5",
            "in flight  3",
            "dead       2",
            "in doubt   1",
            "behind     1m 35s",
            "rates      2/s captured, 0.5/s delivered in 10s",
            "sqlite     3.",
        ):
            assert said in text, said

    def test_is_silent_about_what_there_is_none_of(self, node) -> None:
        node.make_database()
        text = node.text()
        for name in ("failed", "dead", "in doubt", "evicted", "dropped"):
            assert f"\n{name} " not in text

    def test_groups_large_numbers(self, node) -> None:
        repository = node.make_database()
        fill(repository, 12_345)
        assert "pending    12,345" in node.text()

    def test_is_coloured_only_if_asked(self, busy) -> None:
        assert "\x1b" not in busy.text()
        coloured = busy.text(colour=True)
        assert coloured.startswith("\x1b[31m! ")
        plain = coloured
        for code in (31, 32, 33, 0):
            plain = plain.replace(f"\x1b[{code}m", "")
        assert plain == busy.text()

    def test_is_coloured_on_a_terminal_and_plain_in_a_pipe(self, node) -> None:
        terminal, its_end = os.openpty()
        command = [sys.executable, "-m", "sensor_node", "-c", str(node.file), "status"]
        subprocess.run(command, stdout=its_end, timeout=60)
        os.close(its_end)
        assert b"\x1b[33mstopped" in os.read(terminal, 65_536)
        os.close(terminal)
        assert "\x1b" not in node.ctl("status").stdout


class TestOnABadDay:
    """Whatever state the database is in: an answer, an exit status, and no traceback."""

    def asked(self, node, **options):
        done = node.ctl("status", "--json", **options)
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout)

    def test_there_is_no_database(self, node) -> None:
        code, found = self.asked(node)
        assert code == 3
        assert found["problems"] == []
        assert set(found) >= KEYS[""]
        assert found["sqlite"]["version"]

    @pytest.mark.parametrize(
        "content", [b"garbage" * 1000, b"x", b"", b"SQLite format 3\0" + b"\xff" * 5000]
    )
    def test_it_is_garbage(self, node, content) -> None:
        node.config.state_directory.mkdir()
        node.config.storage.path.write_bytes(content)
        code, found = self.asked(node)
        assert code == 4
        [problem] = found["problems"]
        assert str(node.config.storage.path) in problem["what"]
        assert problem["hint"]
        assert set(found) >= KEYS[""]

    def test_it_is_another_programs(self, node) -> None:
        node.config.state_directory.mkdir()
        with sqlite3.connect(node.config.storage.path) as other:
            other.execute("CREATE TABLE theirs(x)")
        other.close()
        code, found = self.asked(node)
        assert code == 4
        assert "another program's" in found["problems"][0]["what"]

    def test_it_is_from_a_later_version(self, node) -> None:
        repository = node.make_database()
        repository._database.connection.execute("PRAGMA user_version = 99")
        code, found = self.asked(node)
        assert code == 4
        assert "schema 99" in found["problems"][0]["what"]

    def test_it_is_cut_off(self, node) -> None:
        fill(node.make_database(), 5000)
        node.repository.close()
        node.repository = None
        with node.config.storage.path.open("r+b") as file:
            file.truncate(20_000)
        code, found = self.asked(node)
        assert code in (3, 4)
        assert set(found) >= KEYS[""]

    def test_it_is_a_directory(self, node) -> None:
        node.config.storage.path.mkdir(parents=True)
        code, found = self.asked(node)
        assert code == 4
        assert found["problems"][0]["hint"]

    def test_its_directory_is_read_only(self, node) -> None:
        fill(node.make_database(), 7)
        node.repository.close()
        node.repository = None
        node.config.state_directory.chmod(0o555)
        node.config.storage.path.chmod(0o444)
        try:
            done = unprivileged(node, "status", "--json")
        finally:
            node.config.state_directory.chmod(0o755)
        assert (done.returncode, done.stderr) == (3, "")
        assert json.loads(done.stdout)["counts"]["captured"] == 7

    def test_its_directory_is_closed_to_this_user(self, node) -> None:
        node.make_database()
        node.run()
        node.config.state_directory.chmod(0o000)
        try:
            done = unprivileged(node, "status")
        finally:
            node.config.state_directory.chmod(0o755)
        assert done.returncode == 4
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert "Permission denied; try as root" in done.stderr

    def test_a_reader_holds_nobody_up(self, node) -> None:
        """Asked in the middle of another process's transaction."""
        repository = node.make_database()
        with repository._transaction() as connection:
            connection.execute("DELETE FROM key_value")
            code, _ = self.asked(node)
        assert code == 3


def unprivileged(node, *words):
    """Root is asked as root without its powers, so that modes count."""
    command = [sys.executable, "-m", "sensor_node", "-c", str(node.file), *words]
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if not setpriv:
            pytest.skip("root, and no setpriv")
        command = [setpriv, "--bounding-set", "-all", "--inh-caps", "-all", "--", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class TestWhatStopSays:
    def test_is_how_much_waits_for_the_next_start_and_for_a_person(self, busy) -> None:
        busy.repository.end_run(WALL)
        said = "12 readings are buffered and go out after the next start"
        assert buffered(busy.config) == f"{said}, but for 2 DEAD and 1 IN_DOUBT"

    def test_is_that_nothing_does(self, node) -> None:
        node.make_database().end_run(WALL)
        assert buffered(node.config) == "everything captured is delivered"

    def test_is_not_that_a_claim_goes_out_again_with_at_most_once(self, node) -> None:
        node.make_database()
        fill(node.repository, 3)
        node.repository.claim_fresh("sender", POLICY, 0.0, 2)
        node.repository.end_run(WALL)
        sink = replace(node.config.sink, delivery="at-most-once")
        once = replace(node.config, sink=sink)
        said = "1 reading is buffered and goes out after the next start"
        assert buffered(once) == f"{said}, but for 2 IN_DOUBT"

    def test_is_that_it_was_no_stop_in_good_order(self, node) -> None:
        node.make_database()
        force = "what was in memory may be lost: it ended by force"
        assert buffered(node.config) == f"everything captured is delivered; {force}"

    def test_is_that_nobody_knows(self, node) -> None:
        assert buffered(node.config).startswith("what is buffered is unknown: cannot be opened")
