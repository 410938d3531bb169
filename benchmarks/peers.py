"""Other programs that do the same, on this machine in the same run: syslog-ng."""

import shutil
import tempfile
from pathlib import Path

from benchmarks import syslog_ng, throughput
from benchmarks.report import Row
from benchmarks.sink import Sink
from benchmarks.throughput import LOADS
from benchmarks.trial import PREFIX, Trial

OURS = tuple(load for load in LOADS if load.batch >= 1000 and load.senders == 2)
BESIDE = tuple(f"throughput {load.name}" for load in OURS)
RSYSLOG_MODULE = "lib*/**/rsyslog/omhttp.so"
ROWS = (
    Row(
        "syslog-ng",
        f"syslog-ng, reliable disk buffer, batch {syslog_ng.BATCH_LINES:,}, 2 workers",
        "/s",
        beside=BESIDE,
    ),
    Row(
        "syslog-ng cpu",
        "CPU a record: syslog-ng",
        "µs",
        2,
        beside=tuple(f"whole {load.name}" for load in OURS),
    ),
)


def run(trial: Trial) -> None:
    if BESIDE[0] not in trial.samples:
        for load in OURS:
            throughput.measure(trial, load)
    run_syslog_ng(trial)
    if not shutil.which("rsyslogd"):
        trial.note("rsyslog: left out, not installed")
    elif not any(Path("/usr").glob(RSYSLOG_MODULE)):
        trial.note("rsyslog: left out, its omhttp module is not installed (Debian 12 has none)")
    else:
        trial.note("rsyslog: left out, though it has omhttp: nobody has written its setup yet")


def run_syslog_ng(trial: Trial) -> None:
    program = shutil.which("syslog-ng")
    if program is None:
        trial.note(
            "syslog-ng: left out, not installed (Debian: syslog-ng-core, syslog-ng-mod-http)"
        )
        return
    count = trial.size(500_000, 100_000)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, Sink(trial.sink_port) as sink:
        records, microseconds = syslog_ng.rate(program, sink, Path(name), count)
    trial.add("syslog-ng", records)
    trial.add("syslog-ng cpu", microseconds)
