"""Readings that a shell command prints, run once a tick in a process group of its own."""

import os
import selectors
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sensor_node.core.errors import SourceError
from sensor_node.core.model import Readings
from sensor_node.sensors.command_output import parse_output, quoted, telling_line
from sensor_node.sensors.process_group import GroupRecord, kill_group
from sensor_node.sensors.source import SensorConfig

MAX_OUTPUT_BYTES = 64 * 1024
# A killed command ends at once, unless it is stuck in the kernel or runs as another user.
KILL_SECONDS = 2.0
HINT = "try it by hand as this user"


@dataclass(frozen=True, slots=True)
class CommandSettings:
    """The source's own options."""

    command: str
    timeout: float  # seconds


def open_source(sensor: SensorConfig, directory: Path) -> "CommandSource":
    """`directory` is where the command's process group is recorded."""
    return CommandSource(sensor.name, CommandSettings(**sensor.settings), directory)


class CommandSource:
    """Runs the command at each read(), which takes at most its timeout and KILL_SECONDS.

    One thread must call read(), and live as long as the source: the kernel kills the command when
    that thread ends. So the command dies with a killed generator. When the command has ended, the
    rest of its process group is killed. Only a process that left the group (setsid) goes on.
    """

    def __init__(self, name: str, settings: CommandSettings, directory: Path) -> None:
        setpriv = shutil.which("setpriv")
        # preexec_fn would do it, too, but can deadlock in a process with threads.
        death_signal = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        self._arguments = [*death_signal, "/bin/sh", "-c", settings.command]
        self._name = name
        self._timeout = settings.timeout
        self._group = GroupRecord(directory, name)
        self._lock = threading.Lock()  # held to kill the group, and to reap its leader
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def read(self, first_tick: int, timestamps_us: Sequence[int]) -> Readings:
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
        if not output.strip() and complaint.strip():
            message = quoted(telling_line(complaint))
            raise SourceError(f"the command printed nothing but, on stderr, {message}; {HINT}")
        return parse_output(output, self._name, timestamps_us[0])

    def close(self) -> None:
        """Kill the command if it runs; a read() that waits for it ends with SourceError."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                kill_group(self._process.pid)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise SourceError("the sensor is closed; restart to read it")
            if self._process is not None and self._process.poll() is None:
                raise SourceError(_unkillable(self._process.pid))
            # It is reaped. If the next start fails, its pid may be another process's.
            self._process = None
            self._group.expect()
            self._process = subprocess.Popen(
                self._arguments,
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._group.environment(),
                start_new_session=True,  # it has no terminal, either
            )
            self._group.note(self._process.pid)
            return self._process

    def _capture(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """What the command printed on stdout and on stderr until it exited.

        It does not wait for end of file: a grandchild may hold the pipes open for ever.
        """
        deadline = time.monotonic() + self._timeout
        assert process.stdout and process.stderr
        outputs = {process.stdout: bytearray(), process.stderr: bytearray()}
        exit_fd = os.pidfd_open(process.pid)
        with os.fdopen(exit_fd, "rb", 0) as exited, selectors.DefaultSelector() as selector:
            selector.register(exited, selectors.EVENT_READ)
            for pipe in outputs:
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
                for pipe in [pipe for pipe in outputs if done or pipe in ready]:
                    if not _drain(pipe, outputs[pipe]) and not done:
                        selector.unregister(pipe)
                if len(outputs[process.stdout]) > MAX_OUTPUT_BYTES:
                    raise SourceError("the command printed more than 64 KiB; make it print less")
        return bytes(outputs[process.stdout]), bytes(outputs[process.stderr])

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the group, then reap its leader: until then no other group can get its number."""
        assert process.stdout and process.stderr
        with self._lock:
            kill_group(process.pid)
            process.stdout.close()
            process.stderr.close()
            try:
                process.wait(KILL_SECONDS)
            except subprocess.TimeoutExpired:
                raise SourceError(_unkillable(process.pid)) from None
            self._process = None
            self._group.clear()


def _drain(pipe: IO[bytes], output: bytearray) -> bool:
    """Move what the pipe holds to `output`, up to one byte over the limit; False at end of file."""
    chunk = pipe.read(MAX_OUTPUT_BYTES + 1)
    output += (chunk or b"")[: MAX_OUTPUT_BYTES + 1 - len(output)]
    return chunk != b""  # None: the pipe is empty, but a process holds it open


def _failure(status: int, complaint: bytes) -> str:
    end = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    message = telling_line(complaint) or b"nothing on stderr"
    return f"the command {end}: {quoted(message)}; {HINT}"


def _unkillable(pid: int) -> str:
    return f"the command (pid {pid}) was killed but does not end; see what it waits for"
