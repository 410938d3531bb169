"""P7: whatever is wrong is said with its hint, the worst first; all well says nothing."""

import pytest

from sensor_node.config.loader import load_config
from sensor_node.control.lag import HINTS
from sensor_node.control.problems import find, notes
from sensor_node.core.errors import STORAGE_REASONS

MIB = 1024 * 1024
COUNTS = {
    "captured": 1000,
    "pending": 0,
    "in_flight": 0,
    "failed": 0,
    "sent": 1000,
    "dead": 0,
    "in_doubt": 0,
    "evicted": 0,
    "dropped": 0,
    "purged": 0,
}
PROCESS = {
    "name": "sender-1",
    "state": "RUNNING",
    "restarts": 0,
    "keeps_dying": False,
    "trouble": "",
}
PROCESS |= {"trouble_seconds": 65.0}
SINK = {"state": "UP", "reason": "", "hint": "", "next_probe_seconds": None}
ISOLATED = {"sensor": "bad", "reason": "503 Busy", "readings": 2, "next_probe_seconds": 120.0}
LAG = {"captured": 100.0, "delivered": 66.667, "request_seconds": 0.03, "request_readings": 1.0}
DOWN = {"state": "DOWN", "reason": "connection refused", "hint": "", "next_probe_seconds": 130.0}
STORAGE = {"warning": "", "used_bytes": 10 * MIB, "limit_bytes": 256 * MIB}
STORAGE |= {"path": "/var/x.db", "trouble": "", "log_held": None}
STORAGE |= {"spare_bytes": 0, "when_full": "drop-oldest", "limited_by": "max_size"}
WELL = {
    "state": "running",
    "version": "0.2.0",
    "running_version": "0.2.0",
    "places": [],
    "reload_problem": "",
    "config_problem": "",
    "dropping": [],
    "sensors": [],
    "stuck": None,
    "isolated": [],
    "lag": None,
    "processes": [PROCESS],
    "database_error": "",
    "quarantined": [],
    "holders": [],
    "storage": STORAGE,
    "counts": COUNTS,
    "sink": SINK,
}
# Nothing is known but that there is no database.
NOTHING = {
    **WELL,
    "state": "stopped",
    "processes": [],
    **dict.fromkeys(("storage", "counts", "sink")),
}


def problems(**changes):
    return [(problem.what, problem.hint) for problem in find({**WELL, **changes})]


def process(**changes):
    return {"processes": [{**PROCESS, **changes}]}


def counts(**changes):
    return {"counts": {**COUNTS, **changes}}


def full(share, **changed_counts):
    used = int(share * STORAGE["limit_bytes"])
    return {"storage": {**STORAGE, "used_bytes": used}, **counts(**changed_counts)}


def log_held(**changes):
    log = {"since": "2026-11-23T12:03:04Z", "seconds": 300.0, "by": "sqlite3 (pid 9)"}
    log |= {"tight": False}
    return {**STORAGE, "wal_bytes": 120 * MIB, "log_held": {**log, **changes}}


READER = {"pid": 8, "name": "python3", "writes": False}
WRITER = {"pid": 9, "name": "sqlite3", "writes": True}


class TestALogThatIsHeld:
    def test_is_told_with_who_holds_it_since_when_and_its_size(self) -> None:
        [(what, hint)] = problems(storage=log_held(), holders=[READER])
        assert what == (
            "python3 (pid 8) has held a read transaction since 2026-11-23T12:03:04Z or before (5m):"
            " the log has grown to 120.0 MiB"
        )
        assert hint.startswith("end that program, or its transaction")

    def test_is_told_by_what_the_housekeeper_saw_if_nobody_is_seen_now(self) -> None:
        [(what, _)] = problems(storage=log_held())
        assert what.startswith("sqlite3 (pid 9) has held")

    def test_that_leaves_no_room_for_readings_is_one_problem(self) -> None:
        storage = log_held(tight=True) | {"limited_by": "min_free", "limit_bytes": 10 * MIB}
        [(what, _)] = problems(storage=storage)
        assert what.endswith("the disk has no more, and new readings are not stored")

    def test_is_no_problem_of_a_node_that_does_not_run(self) -> None:
        assert problems(storage=log_held(), state="stopped", processes=[]) == []


def test_who_writes_and_does_not_end_it_is_told() -> None:
    locked = process(trouble="locked by another program")
    [(what, _)] = problems(**locked, holders=[READER, WRITER])
    said = "the database cannot be used: locked by another program (sender-1), for 1m 5s: by"
    assert what == f"{said} sqlite3 (pid 9)"
    [(what, _)] = problems(**locked)
    assert what == f"{said} a program that this process cannot see"
    error = "locked by another program: /x.db: database is locked"
    [(what, _)] = problems(**{**NOTHING, "database_error": error, "holders": [WRITER]})
    assert what == f"{error}: by sqlite3 (pid 9)"


def test_all_well_is_no_problem() -> None:
    assert problems() == []
    assert find(NOTHING) == []


def test_one_trouble_of_many_processes_is_one_problem() -> None:
    every = [{**PROCESS, "name": name, "trouble": "disk full"} for name in ("generator", "retrier")]
    [(what, _)] = problems(processes=every)
    assert what == "the database cannot be used: disk full (generator, retrier)"


def test_a_mistake_in_the_files_of_a_running_node_is_one() -> None:
    [(what, hint)] = problems(config_problem="config.ini: [sink] oops: unknown option")
    assert what == "config.ini: [sink] oops: unknown option"
    assert "goes by what it read before" in hint


def test_a_node_of_the_version_before_an_upgrade_is_one() -> None:
    [problem] = find({**WELL, "running_version": "0.1.0"})
    assert problem.what == "version 0.1.0 runs, 0.2.0 is installed"
    assert find({**WELL, "running_version": None}) == []


def test_readings_that_are_on_their_way_or_were_given_up_are_none() -> None:
    assert problems(**counts(pending=500, failed=3, in_flight=100, evicted=5, dropped=7)) == []


@pytest.mark.parametrize(
    ("changes", "what", "hint"),
    [
        ({"state": "dead"}, "the supervisor died", "sensor-node-ctl start"),
        (
            {"reload_problem": "config.ini: [log] level = 'x'"},
            "the last reload was refused: config.ini: [log] level = 'x'",
            "correct it; then sensor-node-ctl reload",
        ),
        (
            process(state="BACKOFF", restarts=4),
            "sender-1 has died 4 times",
            "it is started again by itself; the log says why it ends",
        ),
        (
            process(keeps_dying=True, restarts=9),
            "sender-1 has died 9 times",
            "it is started again by itself; the log says why it ends",
        ),
        (
            process(trouble="disk full"),
            "the database cannot be used: disk full (sender-1)",
            "free some space; readings wait in memory for about a minute",
        ),
        (
            {"sink": DOWN},
            "the sink is DOWN: connection refused",
            "it is tried again in 2m 10s",
        ),
        (
            {"sink": {**DOWN, "reason": "401 Unauthorized", "hint": "check [sink] token_file"}},
            "the sink is DOWN: 401 Unauthorized",
            "check [sink] token_file",
        ),
        (
            {"sink": DOWN, "state": "stopped"},
            "the sink is DOWN: connection refused",
            "it is tried again after sensor-node-ctl start",
        ),
        (
            counts(dead=3),
            "the sink refuses 3 messages (DEAD)",
            "sensor-node-ctl messages --status DEAD; then requeue --dead",
        ),
        (
            {"stuck": {"messages": 2, "reason": "403 Forbidden"}},
            "2 messages failed while the sink takes others: 403 Forbidden",
            "sensor-node-ctl messages --status FAILED; ask who runs the sink or a filter before it",
        ),
        *[
            (
                {"lag": {**LAG, "limited_by": limit}},
                "delivery cannot keep up: 100 readings/s are captured and 66.7/s delivered; "
                "a request with 1 reading takes 0.03 s",
                hint,
            )
            for limit, hint in HINTS.items()
        ],
        (
            {"isolated": [ISOLATED]},
            "sensor bad is set apart, as the sink fails with its readings alone (503 Busy): "
            "2 readings waiting",
            "ask who runs the sink; it is tried again in 2m",
        ),
        (
            counts(in_doubt=2),
            "the fate of 2 messages is unknown",
            "find out whether the sink has them; if not: sensor-node-ctl requeue --in-doubt",
        ),
        (
            {"storage": {**STORAGE, "warning": "/run/x.db: is in memory (tmpfs)"}},
            "/run/x.db: is in memory (tmpfs)",
            "move [storage] path to a disk",
        ),
        (
            {"database_error": "/x.db: is not a SQLite database; move it away"},
            "/x.db: is not a SQLite database",
            "move it away",
        ),
        (
            {"database_error": "no permission: /x.db: unable to open database file"},
            "no permission: /x.db: unable to open database file",
            "try as root, or look at the file's owner and mode",
        ),
    ],
)
def test_each_problem_comes_with_its_hint(changes, what, hint) -> None:
    assert problems(**changes) == [(what, hint)]


@pytest.mark.parametrize("reason", STORAGE_REASONS)
def test_every_trouble_with_the_database_has_a_hint_of_its_own(reason) -> None:
    [(_, while_running)] = problems(**process(trouble=reason))
    [(_, while_looking)] = problems(database_error=f"{reason}: /x.db: what SQLite says")
    assert while_running == while_looking
    assert "log has" not in while_running
    assert "see the log" not in while_looking


def dropping(reason, **changes):
    return problems(dropping=[{"reason": reason, "readings": 15, "seconds": 14.2}], **changes)


def test_a_sensor_that_gives_nothing_is_one() -> None:
    [(what, hint)] = dropping("sensor boiler failed")
    assert what == "sensor boiler failed: 15 readings lost in 14s"
    assert "the log says why" in hint


@pytest.mark.parametrize("reason", ["sensor boiler late", "buffer full"])
def test_a_node_that_cannot_keep_up_is_one(reason) -> None:
    [(what, hint)] = dropping(reason)
    assert what == f"{reason}: 15 readings lost in 14s"
    assert "lower the rates" in hint


@pytest.mark.parametrize("reason", ["not running", "asleep", "disk full"])
def test_a_gap_that_is_over_or_is_said_elsewhere_is_none(reason) -> None:
    assert dropping(reason) == []


@pytest.mark.parametrize("when_full", ["drop-oldest", "drop-newest"])
def test_readings_without_room_are_one_however_full_it_seems(when_full) -> None:
    [(what, _)] = dropping("no room", storage={**STORAGE, "when_full": when_full})
    assert what.startswith("the database is full, new readings are not stored: ")


def test_a_node_that_is_stopped_loses_nothing_now() -> None:
    assert dropping("sensor boiler late", state="stopped") == []


SENSOR = {"name": "boiler", "failing": False, "error": "", "silent": False, "unaccounted": 0}
FAILING = {**SENSOR, "failing": True, "error": "no bus; check the wires"}


def named(sensor, count):
    return [{**sensor, "name": f"s{n}"} for n in range(count)]


def test_a_sensor_that_fails_is_one_with_its_hint_and_not_two_for_what_gets_lost() -> None:
    lost = [{"reason": "sensor boiler failed", "readings": 15, "seconds": 14.2}]
    said = [("sensor boiler failed: no bus", "check the wires")]
    assert problems(sensors=[FAILING], dropping=lost) == said
    assert problems(sensors=[FAILING], dropping=lost, state="stopped") == []


def test_an_error_without_a_hint_is_told_whole() -> None:
    said = [("sensor boiler failed: no bus", "see the log")]
    assert problems(sensors=[{**FAILING, "error": "no bus"}]) == said


def test_many_sensors_that_fail_do_not_hide_the_rest() -> None:
    found = problems(sensors=named(FAILING, 9))
    assert len(found) == 6
    assert found[-1][0] == "4 more sensors fail: s5, s6 and 2 more"


def test_a_sensor_that_is_silent_is_one_and_not_two_for_what_gets_lost() -> None:
    lost = [{"reason": "sensor s0 late", "readings": 15, "seconds": 14.2}]
    silent = [{**one, "silent": True, "silent_seconds": 25.0} for one in named(SENSOR, 5)]
    [(what, _)] = problems(sensors=silent, dropping=lost)
    assert what == "no reading of s0, s1 and 3 more for 25s"


def test_a_sensor_that_fails_is_not_also_silent() -> None:
    silent = {**FAILING, "silent": True, "silent_seconds": 25.0}
    assert problems(sensors=[silent]) == [("sensor boiler failed: no bus", "check the wires")]


class TestANearlyFullDatabase:
    def test_is_a_problem_before_it_is_full(self) -> None:
        undelivered = {"captured": 1000, "sent": 0, "pending": 1000}
        assert problems(**full(0.89, **undelivered)) == []
        [(what, hint)] = problems(**full(0.91, **undelivered))
        assert what == "the database is nearly full: 233.0 MiB of 256.0 MiB"
        assert "max_size" in hint

    def test_that_is_full_says_what_is_given_up(self) -> None:
        [(oldest, _)] = problems(**full(0.97, captured=1000, sent=0, pending=1000))
        assert (
            oldest == "the database is full, the oldest readings give way: 248.3 MiB of 256.0 MiB"
        )
        changes = full(1.0, captured=1000, sent=0, pending=1000)
        changes["storage"]["when_full"] = "drop-newest"
        [(newest, _)] = problems(**changes)
        assert newest.startswith("the database is full, new readings are not stored: ")

    def test_is_full_where_room_is_made_before_it_is_needed(self) -> None:
        changes = full(0.75, captured=1000, sent=0, pending=1000)
        changes["storage"]["spare_bytes"] = 64 * MIB
        [(what, _)] = problems(**changes)
        assert what.startswith("the database is full, the oldest")

    def test_for_want_of_free_disk_space_does_not_ask_for_a_larger_file(self) -> None:
        changes = full(0.97, captured=1000, sent=0, pending=1000)
        changes["storage"]["limited_by"] = "min_free"
        [(_, hint)] = problems(**changes)
        assert hint == "free disk space, or lower [storage] min_free"

    @pytest.mark.parametrize("trouble", ["disk full", "read-only"])
    def test_that_only_status_sees_is_said_once(self, trouble) -> None:
        changes = full(1.0, captured=1000, sent=0, pending=1000)
        changes["storage"]["trouble"] = trouble
        [(what, _)] = problems(**changes)
        assert what == f"{trouble}, where the database is: /var/x.db"
        [(what, _)] = problems(**changes, **process(trouble=trouble))
        assert what == f"the database cannot be used: {trouble} (sender-1)"

    def test_of_delivered_readings_is_none_as_they_make_room(self) -> None:
        assert problems(**full(0.99, captured=1000, sent=900, pending=100)) == []

    def test_of_readings_that_were_purged_long_ago_is_none_either(self) -> None:
        mostly_undelivered = {"captured": 10_000, "sent": 9050, "purged": 9000, "pending": 950}
        assert len(problems(**full(0.99, **mostly_undelivered))) == 1

    def test_without_a_single_reading_is_one_for_the_disk_is_full(self) -> None:
        assert len(problems(**full(1.0, captured=0, sent=0))) == 1

    def test_in_memory_is_two(self) -> None:
        changes = full(0.99, captured=1000, sent=0, pending=1000)
        changes["storage"]["warning"] = "/run/x.db: is in memory (tmpfs)"
        assert len(problems(**changes)) == 2


def test_the_worst_comes_first() -> None:
    found = problems(
        state="dead",
        **process(trouble="disk full"),
        **full(1.0, captured=1000, sent=0, pending=900, dead=1, in_doubt=1),
        sink=DOWN,
    )
    begins = [
        "the supervisor",
        "the database cannot",
        "the database is",
        "the sink is",
        "the sink ref",
        "the fate",
    ]
    assert all(what.startswith(begin) for (what, _), begin in zip(found, begins, strict=True)), (
        found
    )


def test_a_process_that_is_dead_is_not_also_blamed_for_its_last_trouble() -> None:
    assert len(problems(**process(state="BACKOFF", restarts=1, trouble="disk full"))) == 1


def noted(directory, url, source="mock"):
    file = directory / "config.ini"
    file.write_text(f"[sensor:room]\nsource = {source}\n[sink]\nurl = {url}\n")
    return notes(load_config(file))


@pytest.mark.parametrize("host", ["sink.example", "192.0.2.1", "[2001:db8::1]:8470"])
def test_simulated_readings_that_leave_this_machine_are_noted(tmp_path, host) -> None:
    name = host.removeprefix("[").partition("]")[0]
    said = f"simulated readings (room) go to {name}"
    assert noted(tmp_path, f"http://{host}/telemetry") == [said]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8470", "127.1.2.3", "[::1]:8470"])
def test_but_not_those_that_stay(tmp_path, host) -> None:
    assert noted(tmp_path, f"http://{host}/telemetry") == []


def test_and_not_real_ones(tmp_path) -> None:
    assert noted(tmp_path, "http://sink.example/", source="host") == []


def test_a_file_that_is_not_there_is_noted_but_not_a_credential_of_systemds(tmp_path) -> None:
    (tmp_path / "there").touch()
    file = tmp_path / "config.ini"
    file.write_text(
        "[sensor:room]\n[sink]\ntoken_file = gone\nca_file = there\n"
        "cert_file = ${CREDENTIALS_DIRECTORY}/cert\n"
    )
    assert notes(load_config(file)) == [f"{tmp_path}/gone: there is no such file"]


@pytest.mark.parametrize(
    ("delivery", "timeout", "said"),
    [("at-most-once", "30s", 1), ("at-most-once", "10s", 0), ("at-least-once", "30s", 0)],
)
def test_a_stop_that_can_leave_readings_in_doubt_is_noted(
    tmp_path, delivery, timeout, said
) -> None:
    file = tmp_path / "config.ini"
    file.write_text(f"[sensor:room]\n[sink]\ndelivery = {delivery}\ntimeout = {timeout}\n")
    assert len(notes(load_config(file))) == said


def test_a_sensor_that_is_set_apart_without_a_reading_that_waits_is_no_problem() -> None:
    """It may be gone from the configuration."""
    assert problems(isolated=[{**ISOLATED, "readings": 0}]) == []
