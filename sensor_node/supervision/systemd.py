"""sd_notify(3): tells whoever started us, systemd or our own `start`, how we are."""

import contextlib
import os
import socket
import time

# One request extends the start timeout by this; it is repeated while more is needed.
MORE_SECONDS = 30.0


class Notifier:
    """Sends to $NOTIFY_SOCKET, if there is one. It is no error if nobody listens."""

    def __init__(self) -> None:
        # Children, and the commands that they run, must not notify in our name.
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds = int(os.environ.pop("WATCHDOG_USEC", "0") or 0)
        os.environ.pop("WATCHDOG_PID", None)
        self._watchdog_seconds = microseconds / 1e6 / 3
        self._fed_at = self._asked_at = -MORE_SECONDS

    def send(self, *lines: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), address)

    def ask_for_time(self, now: float, reason: str) -> None:
        """Ask for more time to start; `now` is monotonic seconds."""
        if now - self._asked_at >= MORE_SECONDS / 3:
            self._asked_at = now
            self.send(f"EXTEND_TIMEOUT_USEC={int(MORE_SECONDS * 1e6)}", f"STATUS={reason}")

    def reloading(self) -> None:
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def feed_watchdog(self, now: float) -> None:
        """Send WATCHDOG=1 three times a period; `now` is monotonic seconds."""
        if self._watchdog_seconds and now - self._fed_at >= self._watchdog_seconds:
            self._fed_at = now
            self.send("WATCHDOG=1")
