"""Readings that a shell command prints, run once a tick in a process group of its own."""

import contextlib
import hashlib
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO
from urllib.parse import quote

from sensor_node.config import SensorConfig
from sensor_node.config_schema import MAX_NAME_BYTES
from sensor_node.errors import SourceError
from sensor_node.model import Reading

MAX_OUTPUT_BYTES = 64 * 1024
# A killed command is gone at once, unless it is stuck in the kernel or runs as another user.
KILL_SECONDS = 2.0
# In the environment of all that a run starts, so that a later start knows it again.
TOKEN_VARIABLE = "SENSOR_NODE_COMMAND"  # noqa: S105 - a name, not a secret
LONGEST_QUOTED_NAME = 200
SHOWN_CHARACTERS = 80
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_10000_US = 253_402_300_800 * 1_000_000
WANTED = (
    'print a number, or {"name": …, "value": …, "timestamp": …}, on each line: a name of at most '
    f"{MAX_NAME_BYTES} bytes, a timestamp in ISO 8601 with offset, or in seconds since 1970"
)


class CommandSource:
    """Runs the command at each read(), which takes at most its timeout and KILL_SECONDS.

    Let one thread that lives as long as the source call read(): the kernel kills the command when
    that thread ends, which is how it dies with a killed generator. Whatever is left of the process
    group when the command is done is killed; only what left the group (setsid) goes on.
    """

    makes_up_late_ticks = False

    def __init__(self, sensor: SensorConfig, directory: Path) -> None:
        setpriv = shutil.which("setpriv")
        # Not preexec_fn: it can deadlock in a process with threads.
        dies_with_us = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        self._arguments = [*dies_with_us, "/bin/sh", "-c", sensor.command]
        self._name = sensor.name
        self._timeout = sensor.timeout
        self._record = directory / _record_name(sensor.name)
        self._token = secrets.token_hex(16)
        self._lock = threading.Lock()  # held to kill the group, and to reap its leader
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        _end_old_group(self._record)

    def read(self, first_tick: int, timestamps_us: Sequence[int]) -> list[Reading]:
        try:
            process = self._start()
            try:
                output, complaint = self._capture(process)
            finally:
                self._end(process)
        except (OSError, ValueError) as error:
            raise SourceError(f"the command cannot be run: {error}; check command") from error
        if process.returncode:
            raise SourceError(_failure(process.returncode, complaint))
        return parse_output(output, self._name, timestamps_us[0])

    def close(self) -> None:
        """Kill what runs, now; a read() that waits for it ends with SourceError."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                _kill_group(self._process.pid)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise SourceError("the sensor is closed; restart to read it")
            if self._process is not None and self._process.poll() is None:
                raise SourceError(_unkillable(self._process.pid))
            self._process = None  # reaped; were the next start to fail, its number is a stranger's
            self._process = subprocess.Popen(  # noqa: S603 - running it is what was asked for
                self._arguments,
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, TOKEN_VARIABLE: self._token},
                process_group=0,
            )
            self._note_group(self._process.pid)
            return self._process

    def _capture(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """What it printed on stdout and stderr until it exited; nobody waits for end of file.

        A grandchild may hold the pipes open for as long as it likes.
        """
        deadline = time.monotonic() + self._timeout
        assert process.stdout and process.stderr
        kept = {process.stdout: bytearray(), process.stderr: bytearray()}
        exit_fd = os.pidfd_open(process.pid)
        with os.fdopen(exit_fd, "rb", 0) as exited, selectors.DefaultSelector() as selector:
            selector.register(exited, selectors.EVENT_READ)
            for pipe in kept:
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ)
            done = False
            while not done:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise SourceError(
                        f"the command ran longer than {self._timeout:g} s and was killed; "
                        "raise timeout, or make it faster"
                    )
                ready = [key.fileobj for key, _ in selector.select(remaining)]
                done = exited in ready
                for pipe in [pipe for pipe in kept if done or pipe in ready]:
                    if not _take(pipe, kept[pipe]) and not done:
                        selector.unregister(pipe)
                if len(kept[process.stdout]) > MAX_OUTPUT_BYTES:
                    raise SourceError("the command printed more than 64 KiB; make it print less")
        return bytes(kept[process.stdout]), bytes(kept[process.stderr])

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the group while the unreaped leader keeps its number from strangers, then reap."""
        assert process.stdout and process.stderr
        with self._lock:
            _kill_group(process.pid)
            process.stdout.close()
            process.stderr.close()
            try:
                process.wait(KILL_SECONDS)
            except subprocess.TimeoutExpired:
                raise SourceError(_unkillable(process.pid)) from None
            self._process = None
            with contextlib.suppress(OSError):
                self._record.unlink(missing_ok=True)

    def _note_group(self, pgid: int) -> None:
        """For the next start, in case this process is killed before the group is."""
        # Where it cannot be written, the death signal still ends the leader.
        with contextlib.suppress(OSError):
            words = f"{pgid} {_start_ticks(pgid)} {_boot_id()} {self._token}"
            self._record.write_text(words)


def _take(pipe: IO[bytes], kept: bytearray) -> bool:
    """Move what the pipe holds to `kept`, up to one byte over the limit; False at end of file."""
    chunk = pipe.read(MAX_OUTPUT_BYTES + 1)
    kept += (chunk or b"")[: MAX_OUTPUT_BYTES + 1 - len(kept)]
    return chunk != b""  # None: empty, but somebody holds it open


def parse_output(output: bytes, name: str, timestamp_us: int) -> list[Reading]:
    """A reading for each line; name and timestamp stand in where a line has none."""
    readings = []
    for line in filter(None, map(bytes.strip, output.splitlines())):
        try:
            readings.append(_parse_line(line.decode(), name, timestamp_us))
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise SourceError(f"the command printed {_shown(line)}; {WANTED}") from None
    if not readings:
        raise SourceError(f"the command printed nothing; {WANTED}")
    return readings


def _parse_line(line: str, name: str, timestamp_us: int) -> Reading:
    """Keys beyond the three are left aside."""
    if not line.startswith("{"):
        return Reading(name, float(line), timestamp_us)
    fields = json.loads(line)
    name = fields.get("name", name)
    if not isinstance(name, str) or not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
        raise ValueError(name)
    if "timestamp" in fields:
        timestamp_us = _timestamp_us(fields["timestamp"])
    return Reading(name, _number(fields.get("value")), timestamp_us)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    return float(value)


def _timestamp_us(value: object) -> int:
    if isinstance(value, str):
        # A time without offset could be any; subtracting it from one with is a TypeError.
        microseconds = (datetime.fromisoformat(value) - EPOCH) // timedelta(microseconds=1)
    else:
        microseconds = round(_number(value) * 1_000_000)
    if not 0 <= microseconds < YEAR_10000_US:  # also where milliseconds were given
        raise ValueError(value)
    return microseconds


def _failure(status: int, complaint: bytes) -> str:
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    first_line = next(filter(None, map(bytes.strip, complaint.splitlines())), b"nothing on stderr")
    return f"the command {how}: {_shown(first_line)}; try it by hand as this user"


def _unkillable(pid: int) -> str:
    return f"the command (pid {pid}) was killed but does not end; see what it waits for"


def _shown(line: bytes) -> str:
    """Fit for one log line: short, quoted, control characters escaped."""
    text = line.decode(errors="replace")
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")


def _record_name(name: str) -> str:
    quoted = quote(name, safe="")
    if len(quoted) > LONGEST_QUOTED_NAME:
        quoted = hashlib.sha256(name.encode()).hexdigest()
    return f"command-{quoted}.pgid"


def _kill_group(pgid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)


def _end_old_group(record: Path) -> None:
    """Kill the group that an earlier process had no time to, if the number is still that group's.

    Numbers pass to strangers, so either the leader is the very process that was noted, or a member
    has the token in its environment.
    """
    try:
        pgid_text, ticks, boot_id, token = record.read_text().split()
        pgid = int(pgid_text)
        same_boot = boot_id == _boot_id()
    except (OSError, ValueError):
        return
    if same_boot and (_start_ticks(pgid) == ticks or _has_token(pgid, token)):
        _kill_group(pgid)
    with contextlib.suppress(OSError):
        record.unlink()


def _has_token(pgid: int, token: str) -> bool:
    variable = f"{TOKEN_VARIABLE}={token}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        # It may be gone meanwhile, or another user's.
        with contextlib.suppress(OSError):
            if os.getpgid(int(process.name)) == pgid and variable in _environment(process):
                return True
    return False


def _environment(process: Path) -> list[bytes]:
    return (process / "environ").read_bytes().split(b"\0")


def _start_ticks(pid: int) -> str | None:
    """When it started, in clock ticks since boot: proc(5), field 22; None: no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
