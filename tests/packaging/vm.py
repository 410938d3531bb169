"""A virtual machine that boots systemd from a disk of image.py, and that can lose its power."""

import contextlib
import json
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from image import Image

# Software emulation: some twenty times slower than the machine it runs on.
CONNECT_SECONDS = 30.0
BOOT_SECONDS = 180.0
COMMAND_SECONDS = 120.0
# Over what the guest itself allows a command.
ANSWER_SECONDS = 60.0
KERNEL_LINE = (
    "root=/dev/vda rw console={console} quiet loglevel=4 panic=-1 mitigations=off net.ifnames=0"
    " systemd.show_status=0"
)
# Where a guest finds the sink of the test's own machine; it reaches nothing else.
SINK_ADDRESS = "10.0.2.100"
SINK_PORT = 8470
RELAY = Path(__file__).parent / "relay.py"
CONSOLE_LINES = 40


Done = subprocess.CompletedProcess[str]


class Board(NamedTuple):
    """What is emulated: qemu's command line begins with it; the kernel's name of the console."""

    qemu: tuple[str, ...]
    console: str


PC = Board(
    ("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35"), "ttyS0"
)


class Machine:
    """`with Machine(image, directory, disk=…) as vm: vm.run("true")`; nothing is left at the end.

    `disk` is what qemu's -drive is told. `sink_port` is of a sink on 127.0.0.1 of this machine.
    The guest finds the bytes of the file `luggage` on /dev/vdb.
    """

    def __init__(
        self,
        image: Image,
        directory: Path,
        *,
        disk: str,
        sink_port: int = 0,
        memory_mb: int = 768,
        board: Board = PC,
        luggage: Path | None = None,
    ) -> None:
        self.console = directory / "console.log"
        self.reported = 0
        self._reader: threading.Thread | None = None
        self._closing = contextlib.ExitStack()
        directory.mkdir(parents=True, exist_ok=True)
        agent = self._listen(directory / "agent.sock")
        reports = self._listen(directory / "reports.sock")
        drives = [disk]
        if luggage:
            drives.append(f"file={luggage},format=raw,readonly=on")
        command = _command(board, image, directory, drives, sink_port, memory_mb)
        self._started = time.monotonic()
        with (directory / "qemu.log").open("ab") as log:
            self._qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._closing.callback(self.kill)
        try:
            self._agent = self._accept(agent)
            self._answers = self._closing.enter_context(self._agent.makefile("rb"))
            self._reader = threading.Thread(target=self._read, args=[self._accept(reports)])
            self._reader.start()
            self._ask("true", 10.0, BOOT_SECONDS)
        except BaseException:
            self._closing.close()
            print(self.story(), (directory / "qemu.log").read_text(), file=sys.stderr)
            raise
        self.boot_seconds = time.monotonic() - self._started

    def run(
        self,
        command: str | list[str],
        user: str | None = None,
        check: bool = True,
        timeout: float = COMMAND_SECONDS,
    ) -> Done:
        """A shell's command line, or a program's arguments, in the guest; as root if no `user`."""
        inside = command if isinstance(command, str) else shlex.join(command)
        if user:
            become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
            inside = shlex.join([*become, "sh", "-c", inside])
        done = self._ask(inside, timeout, timeout + ANSWER_SECONDS)
        said = f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert not check or done.returncode == 0, said
        return done

    def kill(self) -> int:
        """Cut the power. Returns the last that the guest had reported."""
        self._qemu.kill()
        self._qemu.wait()
        if self._reader:
            self._reader.join()
        return self.reported

    def story(self) -> str:
        """The end of the console, for a test that failed."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return "\n".join(["--- console", *text.splitlines()[-CONSOLE_LINES:]])

    def _ask(self, command: str, timeout: float, deadline: float) -> Done:
        self._agent.settimeout(deadline)
        order = {"command": command, "timeout": timeout}
        self._agent.sendall(json.dumps(order).encode() + b"\n")
        line = self._answers.readline()
        assert line, f"{command}: the guest is gone\n{self.story()}"
        answer = json.loads(line)
        return Done(command, answer["status"], answer["stdout"], answer["stderr"])

    def _listen(self, path: Path) -> socket.socket:
        path.unlink(missing_ok=True)
        listener = self._closing.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()
        return listener

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(CONNECT_SECONDS)
        connection, _ = listener.accept()
        connection.settimeout(None)
        return self._closing.enter_context(connection)

    def _read(self, reports: socket.socket) -> None:
        with reports, reports.makefile("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):  # the last one may be cut off
                    self.reported = int(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            print(self.story())
        self._closing.close()


@contextlib.contextmanager
def booted(image: Image, directory: Path) -> Iterator[Machine]:
    """A machine of which nothing stays: its disk is a snapshot of the image's."""
    disk = f"file={image.disk},format=raw,snapshot=on,cache=unsafe"
    with Machine(image, directory, disk=disk) as vm:
        yield vm


def _command(
    board: Board,
    image: Image,
    directory: Path,
    drives: list[str],
    sink_port: int,
    memory_mb: int,
) -> list[str]:
    forward = ""
    if sink_port:
        relay = f"{sys.executable} {RELAY} {sink_port}"
        forward = f",guestfwd=tcp:{SINK_ADDRESS}:{SINK_PORT}-cmd:{relay}"
    command = ["setpriv", "--pdeathsig", "KILL", *board.qemu, "-nodefaults", "-no-reboot"]
    command += ["-smp", "2", "-m", str(memory_mb), "-display", "none", "-kernel", str(image.kernel)]
    command += ["-initrd", str(image.initrd)]
    command += ["-append", KERNEL_LINE.format(console=board.console)]
    command += ["-serial", f"file:{directory / 'console.log'}"]
    for drive in drives:
        command += ["-drive", f"if=virtio,{drive}"]
    command += ["-netdev", f"user,id=net,restrict=on{forward}"]
    # romfile: nothing boots from the network, and the ROM is another package's.
    command += ["-device", "virtio-net,netdev=net,romfile="]
    command += ["-device", "virtio-rng", "-device", "virtio-serial"]
    for port in ("agent", "reports"):
        command += ["-chardev", f"socket,id={port},path={directory / port}.sock"]
        command += ["-device", f"virtserialport,chardev={port},name={port}"]
    return command
