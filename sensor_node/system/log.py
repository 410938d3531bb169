"""Log lines are events: `batch_failed batch=812 attempt=3 retry_in=8.2s`, on standard error."""

import contextlib
import logging
import os
import select
import stat
from pathlib import Path

from sensor_node.system.files import is_same_file, open_unlinked
from sensor_node.system.text import visible_lines

# The journal's priorities: https://www.freedesktop.org/software/systemd/man/sd-daemon.html
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
LOGGER = logging.getLogger("sensor_node")
STDOUT, STDERR = 1, 2


class _FileFormatter(logging.Formatter):
    """One event a line, safe to show in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


class _JournalFormatter(_FileFormatter):
    """The same with a priority that journald understands, on each line of the text."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class _StandardError(logging.Handler):
    """Writes to standard error, and never waits for it.

    If that is a pipe that nobody reads, lines are left out and counted. If it is the log file, and
    somebody moves or deletes that, a new one is made; but not in another directory that has come in
    the place of the log's own.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file if is_same_file(os.fstat(STDERR), file) else None
        self._directory = file.parent.stat() if self._file else None
        self._left_out = 0  # lines since the last one that was written
        self._pipe = _open_own_end(STDERR)

    def follow(self) -> None:
        """Make the log file again if it is gone."""
        if self._file is None or self._directory is None:
            return
        if is_same_file(os.fstat(STDERR), self._file):
            return
        if not is_same_file(self._directory, self._file.parent):
            return
        with contextlib.suppress(OSError), open_unlinked(self._file, "ab") as opened:
            for number in (STDOUT, STDERR):
                os.dup2(opened.fileno(), number)

    def emit(self, record: logging.LogRecord) -> None:
        self.follow()
        if self._left_out:
            notice = logging.LogRecord(
                *(record.name, logging.WARNING, __file__, 0),
                *("log_lines_left_out n=%d: nobody read them", (self._left_out,), None),
            )
            if not self._write(self.format(notice)):
                self._left_out += 1
                return
            self._left_out = 0
        for line in self.format(record).split("\n"):
            self._left_out += not self._write(line)

    def _write(self, line: str) -> bool:
        """Write the line whole, or not at all if that would have to wait: pipe(7), PIPE_BUF.

        Returns whether it does not have to be counted as left out.
        """
        text = line.encode(errors="backslashreplace")[: select.PIPE_BUF - 1] + b"\n"
        try:
            if self._pipe is None and not _has_room(STDERR):
                return False
            os.write(STDERR if self._pipe is None else self._pipe, text)
        except BlockingIOError:
            return False
        except OSError:
            return True  # such as a full disk: the loss is not ours to report
        return True


def _open_own_end(descriptor: int) -> int | None:
    """If it is a pipe: a descriptor of our own that does not wait; else None.

    Other processes may share the given one, and must not be made non-blocking with it.
    """
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return None
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        return None  # it is another user's pipe, or there is no /proc


def _has_room(descriptor: int) -> bool:
    """Whether a write would not wait."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def configure(level: str, file: Path) -> None:
    """Send this process's lines to standard error, in the journal's form if systemd says so.

    `level`: as in [log] level. `file`: the log file, which standard error may be.
    """
    handler = _StandardError(file)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(_FileFormatter("%(asctime)s %(levelname)s %(process)d %(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(level.upper())
    LOGGER.propagate = False
    # Else each line that a full disk does not take would give a traceback.
    logging.raiseExceptions = False


def follow() -> None:
    """Make the log file again if it is gone, without writing a line."""
    for handler in LOGGER.handlers:
        if isinstance(handler, _StandardError):
            handler.follow()


class Throttle:
    """Writes the first of many equal lines, then one a minute with the number of those skipped."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._last: dict[str, float] = {}
        self._skipped: dict[str, int] = {}

    def warning(
        self, now: float, event: str, detail: object, error: Exception | None = None
    ) -> None:
        """Lines with the same `event` count as equal. `now`: monotonic seconds.

        The stack of `error` comes with the line.
        """
        last = self._last.get(event)
        if last is not None and now - last < self._seconds:
            self._skipped[event] = self._skipped.get(event, 0) + 1
            return
        self._last[event] = now
        skipped = self._skipped.pop(event, 0)
        left_out = f" skipped={skipped}" if skipped else ""
        LOGGER.warning("%s %s%s", event, detail, left_out, exc_info=error)


def say_event(level: int, kind: str, detail: str) -> None:
    """The line of an event that `history` shows, too. `level` as in logging."""
    LOGGER.log(level, "%s %s", kind.replace(" ", "_"), detail)
