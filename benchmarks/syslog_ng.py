"""syslog-ng beside us: a file of records to HTTP through its reliable disk buffer."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import cpu_seconds
from benchmarks.sink import Sink
from benchmarks.trial import Unusable

RECORD = (
    '{{"id":"{0}","node":"edge-01","name":"bench","value":20.05235892,'
    '"timestamp":"2026-11-23T07:44:38.120001Z"}}\n'
)
BATCH_LINES = 1000
PATIENCE_SECONDS = 120
LOOK_SECONDS = 0.02
CONFIG = """@version: {version}
options {{ stats-freq(0); }};
source s_file {{
  file("{directory}/records" flags(no-parse) multi-line-mode(none) log-fetch-limit(1000)
       log-iw-size(100000));
}};
destination d_http {{
  http(url("http://127.0.0.1:{port}/telemetry") method("POST")
       headers("Content-Type: application/json") body("$MSG") body-prefix("[") delimiter(",")
       body-suffix("]") batch-lines({batch_lines}) batch-timeout(1000) workers(2)
       disk-buffer(reliable(yes) dir("{directory}") mem-buf-size(64MiB) disk-buf-size(1GiB)));
}};
log {{ source(s_file); destination(d_http); flags(flow-control); }};
"""


def version(program: str) -> str:
    """Of its configuration, as `syslog-ng --version` says."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    for line in said.splitlines():
        if line.startswith("Config version:"):
            return line.split()[-1]
    raise Unusable(f"{program}: does not say its Config version; use --version 3.x of it")


def rate(program: str, sink: Sink, directory: Path, count: int) -> tuple[float, float]:
    """Records a second from the first to arrive to the last, and CPU microseconds a record."""
    with (directory / "records").open("w") as file:
        file.writelines(RECORD.format(number) for number in range(count))
    values = {"version": version(program), "directory": directory, "batch_lines": BATCH_LINES}
    (directory / "syslog-ng.conf").write_text(CONFIG.format(port=sink.port, **values))
    with running(program, directory) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (report := sink.ask())["messages"] < count:
            if process.poll() is not None or time.monotonic() > deadline:
                said = (directory / "errors").read_text().splitlines() or ["and says nothing"]
                sent = f"sent {report['messages']:,} of {count:,} records"
                raise Unusable(f"{program}: {sent}: {said[-1]}")
            time.sleep(LOOK_SECONDS)
        lasted = time.monotonic() - report["first_at"]
        return count / lasted, 1e6 * cpu_seconds([process.pid])[process.pid] / count


@contextmanager
def running(program: str, directory: Path) -> Iterator[subprocess.Popen]:
    """In the foreground, with all its files in the directory."""
    files = {"--cfgfile": "syslog-ng.conf", "--persist-file": "persist", "--control": "ctl"}
    options = [f"{option}={directory / name}" for option, name in files.items()]
    with (directory / "errors").open("w") as errors:
        process = subprocess.Popen(
            [program, "--foreground", "--no-caps", f"--pidfile={directory / 'pid'}", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
