"""scripts/bench: what it computes, what it refuses, and that its sink counts right."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from storage_fixtures import rows

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
    backlog_file,
    ceiling,
    link,
    machine,
    node,
    processes,
    report,
    syncs,
)
from benchmarks.report import Row  # noqa: E402
from benchmarks.sink import Sink  # noqa: E402
from benchmarks.trial import Trial, Unusable, percentile  # noqa: E402

ROWS = (
    Row("fast 5000/2", "delivered", "/s", at_least=100, beside=("ceiling 5000/2", "slow")),
    Row("slow", "naive", "/s", 1, at_most=5),
    Row("unmeasured", "never run", "s"),
)
SAMPLES = {"fast 5000/2": [120.0, 90.0, 3000.0], "ceiling 5000/2": [200.0], "slow": [6.0]}
MACHINE = {"cpu": "a", "cores": 2}


def bench(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


# The report


def test_the_table_has_median_range_goal_and_ratios_of_what_was_measured():
    lines = report.table(ROWS, SAMPLES, {"fast 5000/2": 240.0}).splitlines()[2:]

    assert lines == [
        "| delivered | 120 /s | 90–3,000 | ≥ 100 met "
        "| 60.0% of ceiling 5000/2, sink-bound; 20 × slow | 0.50 |",
        "| naive | 6.0 /s |  | ≤ 5 **missed** |  |  |",
    ]


@pytest.mark.parametrize(("median", "verdict"), [(5.0, "met"), (5.04, "**missed**")])
def test_a_goal_is_judged_by_the_figure_and_not_by_what_it_is_rounded_to(median, verdict):
    assert report.goal(ROWS[1], median) == f"≤ 5 {verdict}"


def test_half_of_the_ceiling_is_not_yet_bound_by_the_sink():
    assert report.ratio(100.0, "ceiling 5000/2", SAMPLES) == "50.0% of ceiling 5000/2"


def test_a_result_of_another_machine_is_called_so():
    last = {"commit": "abc", "machine": {"cpu": "b", "cores": 4}, "quick": False}

    told = report.compared("x.json", last, {"machine": MACHINE, "quick": False})

    assert "abc" in told[0]
    assert "another machine (b, 4 cores; here a, 2)" in told[1]


def test_a_result_of_the_same_machine_needs_no_warning():
    last = {"commit": "abc", "machine": MACHINE, "quick": True}
    assert len(report.compared("x.json", last, {"machine": MACHINE, "quick": True})) == 1
    assert len(report.compared("x.json", last, {"machine": MACHINE, "quick": False})) == 2


@pytest.mark.skipif(shutil.which("git") is None, reason="git is missing")
def test_only_the_newest_result_that_is_committed_counts(tmp_path):
    def git(*arguments):
        names = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", tmp_path, *names, *arguments], check=True, capture_output=True)

    assert report.last_result(tmp_path) == ("", {})
    git("init")
    kept = tmp_path / report.KEPT
    kept.mkdir(parents=True)
    (kept / "2026-01-02.json").write_text('{"n": 2}')
    (kept / "2026-01-01.json").write_text('{"n": 1}')
    git("add", ".")
    git("commit", "-m", "two")
    (kept / "2026-01-03.json").write_text('{"n": 3}')
    (kept / "2026-01-02.json").write_text('{"n": "edited"}')

    assert report.last_result(tmp_path) == (f"{report.KEPT}/2026-01-02.json", {"n": 2})
    assert report.commit(tmp_path).endswith("-dirty")


# What is computed


def test_a_percentile_is_the_nearest_rank():
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (
        50,
        99,
        100,
    )
    assert percentile([7.0], 99) == 7.0


def test_a_link_carries_one_batch_a_sender_each_round_trip():
    assert round(link.formula(senders=2, batch_size=500, round_trip_ms=300)) == 3333


def test_a_trial_collects_samples_and_each_note_once():
    trial = Trial("python3", quick=True)
    trial.add("a", 1.0)
    trial.add("a", 4.0)
    trial.note("said")
    trial.note("said")
    with trial.timed("b"):
        pass

    assert trial.medians()["a"] == 2.5
    assert trial.notes == ["said"]
    assert trial.size(10, 1) == 1
    assert len(trial.samples["b"]) == 1


# What the kernel and strace say


def test_cpu_time_is_read_past_a_name_with_spaces_and_brackets():
    ticks = processes.TICKS_A_SECOND
    stat = f"7 (a) b (c) S {' '.join('0' * 10)} {3 * ticks} {ticks} 0 0"
    assert processes.parse_cpu(stat) == 4.0


def test_a_field_is_found_by_its_whole_name():
    text = "Pss_Dirty: 1 kB\nPss:   42 kB\nnonvoluntary_ctxt_switches: 5\n"
    assert processes.parse_field(text, "Pss") == 42
    with pytest.raises(ValueError, match="voluntary"):
        processes.parse_field(text, "voluntary_ctxt_switches")


def test_this_process_has_cpu_time_memory_and_switches():
    pid = os.getpid()
    before = sum(os.times()[:2])
    counted = processes.cpu_seconds([pid])[pid]
    # The kernel counts in ticks.
    assert 0 < before - 0.02 <= counted <= sum(os.times()[:2]) + 0.02
    assert processes.switches([pid]) > 0
    assert processes.rss_mib([pid]) >= processes.pss_mib([pid]) > 0


def test_sync_calls_are_added_up_with_or_without_errors():
    table = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000300          30        10           fsync
 40.00    0.000200          20         7         1 fdatasync
------ ----------- ----------- --------- --------- ----------------
100.00    0.000500                    17         1 total
"""
    assert syncs.parse(table) == 17
    assert syncs.parse("") == 0


def test_a_directory_has_the_file_system_of_its_nearest_mount(tmp_path):
    mounts = f"/dev/a / ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\n/dev/b {tmp_path}x xfs rw 0 0\n"
    assert machine.filesystem(tmp_path / "in", mounts) == "tmpfs"
    assert machine.filesystem(Path("/"), mounts) == "ext4"


def test_a_processor_without_a_model_name_has_none():
    assert machine.cpu_model("processor\t: 0\nmodel name\t: Some CPU: 2\n") == "Some CPU: 2"
    assert machine.cpu_model("processor\t: 0\n") == ""


# The node's configuration and code


def test_the_shipped_configuration_differs_only_in_rate_and_port():
    shipped, ours = (ROOT / "config.ini").read_text(), node.shipped(100, 1234)
    pairs = zip(shipped.splitlines(), ours.splitlines(), strict=True)
    changed = [line for before, line in pairs if before != line]
    assert changed == ["rate = 100", "url = http://127.0.0.1:1234/telemetry"]


def test_a_benchmarks_options_are_added_to_the_usual_ones():
    text = node.config_of(5, {"rate": 1}, sink={"batch_size": 7})
    assert "[sink]\nurl = http://127.0.0.1:5/telemetry\nbatch_size = 7\n" in text
    assert "[sensor:bench]\nrate = 1\n" in text


def test_delivered_readings_are_made_as_a_node_leaves_them(repository):
    backlog_file.fill_sent(repository.path, 5)
    [(last,)] = rows(repository, "SELECT max(settled_at) FROM batch")
    assert abs(time.time() - last) < 60
    assert repository.counts().sent == 5
    assert repository.purge(0, last - 5, last) == ([], 0, True)
    assert repository.purge(0, last - 2, last).messages == 3


# The sink


def test_the_sink_counts_messages_however_they_come():
    content = ceiling.request(3)
    with Sink() as sink, socket.create_connection(("127.0.0.1", sink.port), 10) as connection:
        connection.sendall(ceiling.request(1))
        assert b"200 OK" in connection.recv(4096)
        for part in (content[:50], content[50:-7], content[-7:]):
            connection.sendall(part)
        assert b"200 OK" in connection.recv(4096)
        found = sink.ask()
    assert (found["messages"], found["requests"]) == (4, 2)
    assert found["first_at"] > 0
    assert found["latencies"] == []


def test_the_sink_tells_latencies_once_if_it_is_to():
    with Sink(latencies=True) as sink:
        with socket.create_connection(("127.0.0.1", sink.port), 10) as connection:
            connection.sendall(ceiling.request(2))
            connection.recv(4096)
        assert len(sink.ask()["latencies"]) == 2
        assert sink.ask()["latencies"] == []


def test_the_ceiling_is_what_the_sink_takes():
    assert ceiling.rate(0, batch=10, senders=2, seconds=0.05) > 0


# What is refused, in one line with status 2


def refusal(*arguments, **environment):
    done = bench(*arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("bench: ")
    return line


def test_an_unknown_name_is_refused_with_those_that_there_are():
    line = refusal("idle", "idel")
    assert "'idel'" in line
    assert "throughput, drain, idle, latency, backlog, link, start, peers" in line


@pytest.mark.parametrize("runs", ["0", "-3", "many"])
def test_fewer_runs_than_one_are_refused(runs):
    assert "--runs" in refusal(f"--runs={runs}", "start")


def test_an_option_that_there_is_not_is_refused():
    assert "--help" in refusal("--fast")


def test_a_taken_port_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refusal("--sink-port", port, "start")
    assert f"--sink-port {port}: " in line
    assert os.strerror(errno.EADDRINUSE) in line


def test_a_port_beyond_all_is_refused():
    assert "65535" in refusal("--sink-port", "70000", "start")


def test_more_rows_than_the_disk_has_room_for_are_refused(tmp_path):
    line = refusal("backlog", "--rows", str(10**13), TMPDIR=str(tmp_path))
    assert str(tmp_path) in line
    assert "TMPDIR" in line


def test_fewer_rows_than_the_small_backlog_has_are_refused():
    assert "--rows 5" in refusal("backlog", "--rows", "5")


@pytest.mark.parametrize("python", ["/bin/false", "/nonexistent/python"])
def test_a_python_that_cannot_run_the_node_is_refused(python):
    assert f"--python {python}: " in refusal("--python", python, "start")


def test_a_failing_command_is_told_in_one_line(tmp_path):
    broken = node.Node(tmp_path, sys.executable)
    broken.config.write_text("[nonsense]\n")
    with pytest.raises(Unusable) as raised:
        broken.ctl("start")
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_an_interrupt_ends_with_its_status_and_all_that_was_started(tmp_path):
    with subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "bench"), "--quick", "start"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as started:
        assert "ceiling" in started.stderr.readline()
        started.send_signal(signal.SIGINT)
        printed, errors = started.communicate(timeout=60)
    assert (started.returncode, printed) == (130, "")
    assert errors.splitlines()[-1].startswith("bench: interrupted")
    assert list(tmp_path.iterdir()) == []
