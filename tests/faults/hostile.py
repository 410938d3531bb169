"""A sink that means harm, and what a terminal must never be sent."""

import contextlib
import threading
from collections.abc import Callable, Iterable
from http.client import HTTPMessage, parse_headers
from pathlib import Path
from socket import SO_REUSEADDR, SOL_SOCKET, create_server, socket
from typing import Self

from waiting import wait_until

MIB = 1024 * 1024
# Colours, the window's title, "type this for me", a bell, a C1 code, and text that runs backwards.
ESCAPES = "\x1b[31mred\x1b]0;owned\x07\x1b[6n\x9b31m\u202edesrever"
Attack = Callable[[HTTPMessage], Iterable[bytes]]


class HostileSink:
    """`with HostileSink() as sink: sink.attack(function)`: its bytes are the answer to everything.

    They are sent for as long as the other side listens. Nothing is ever stored.
    """

    def __init__(self) -> None:
        self._listener = create_server(("127.0.0.1", 0))
        self._listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/telemetry"
        self._attack: Attack = lambda headers: [b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n"]
        self._met = 0
        self._connections: set[socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def attack(self, attack: Attack, times: int = 1) -> None:
        """Wait until so many requests have met it, and another came after them: they are over."""
        self._attack, self._met = attack, 0
        wait_until(lambda: self._met > times, deadline=60, what="the attack is over")

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket) -> None:
        with (
            contextlib.suppress(OSError, ValueError),
            connection,
            connection.makefile("rb") as file,
        ):
            while file.readline():
                headers = parse_headers(file)
                file.read(int(headers["Content-Length"]))
                self._met += 1
                for part in self._attack(headers):
                    connection.sendall(part)
        self._connections.discard(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()
        for connection in list(self._connections):
            connection.close()


def assert_harmless(text: str, what: object) -> None:
    """No character of it steers a terminal."""
    found = {char for char in text if not (char.isprintable() or char == "\n")}
    assert not found, f"{what}: {found}"


def everything_written(directory: Path, *but: Path) -> dict[Path, bytes]:
    """Every file below, but for those."""
    files = [file for file in directory.rglob("*") if file.is_file() and file not in but]
    return {file: file.read_bytes() for file in files}
