"""Log lines are events: `batch_failed batch=812 attempt=3 retry_in=8.2s`, on standard error."""

import contextlib
import logging
import os
import select
import stat
from pathlib import Path

from sensor_node.system.files import is_same_file, open_unlinked
from sensor_node.system.text import visible_lines

# https://www.freedesktop.org/software/systemd/man/sd-daemon.html: priorities of the journal.
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
LOGGER = logging.getLogger("sensor_node")
STDOUT, STDERR = 1, 2


class _File(logging.Formatter):
    """For whoever looks at the file in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


class _Journal(_File):
    """A priority that journald understands, on each line of the text."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class _Patient(logging.Handler):
    """Nobody may read what we write to, a pipe: then lines are left out, and counted.

    Or it is the log file, and somebody moves or deletes that: then there is another one. But not in
    another directory that has come in the place of its own.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file if is_same_file(os.fstat(STDERR), file) else None
        self._home = file.parent.stat() if self._file else None
        self._left_out = 0
        self._pipe = _own_end(STDERR)

    def follow(self) -> None:
        if self._file is None or self._home is None or is_same_file(os.fstat(STDERR), self._file):
            return
        if not is_same_file(self._home, self._file.parent):
            return
        with contextlib.suppress(OSError), open_unlinked(self._file, "ab") as opened:
            for number in (STDOUT, STDERR):
                os.dup2(opened.fileno(), number)

    def emit(self, record: logging.LogRecord) -> None:
        self.follow()
        if self._left_out:
            told = logging.LogRecord(
                *(record.name, logging.WARNING, __file__, 0),
                *("log_lines_left_out n=%d: nobody read them", (self._left_out,), None),
            )
            if not self._write(self.format(told)):
                self._left_out += 1
                return
            self._left_out = 0
        for line in self.format(record).split("\n"):
            self._left_out += not self._write(line)

    def _write(self, line: str) -> bool:
        """Whole or, where that would have to wait, not at all: pipe(7), PIPE_BUF."""
        text = line.encode(errors="backslashreplace")[: select.PIPE_BUF - 1] + b"\n"
        try:
            if self._pipe is None and not _has_room(STDERR):
                return False
            os.write(STDERR if self._pipe is None else self._pipe, text)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a disk that is full: nothing of ours to count
        return True


def _own_end(descriptor: int) -> int | None:
    """Of a pipe, one that does not wait, as others may have the same end; None for what is none."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return None
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        return None  # another user's, or no /proc


def _has_room(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def configure(level: str, file: Path) -> None:
    """Send this process's lines to standard error, in the journal's form where it listens.

    `file`: the log file, which standard error may be.
    """
    handler = _Patient(file)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_Journal("%(message)s"))
    else:
        handler.setFormatter(_File("%(asctime)s %(levelname)s %(process)d %(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(level.upper())
    LOGGER.propagate = False
    # A full disk must not turn each line into a traceback about the line.
    logging.raiseExceptions = False


def follow() -> None:
    """Make the log file anew if it is gone, though there is nothing to say."""
    for handler in LOGGER.handlers:
        if isinstance(handler, _Patient):
            handler.follow()


class Throttle:
    """Lets the first of many equal lines through, then one a minute with the number left out."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._last: dict[str, float] = {}
        self._skipped: dict[str, int] = {}

    def warning(
        self, now: float, event: str, detail: object, error: Exception | None = None
    ) -> None:
        """`event` groups the lines; `now`: monotonic seconds; an `error` comes with its stack."""
        last = self._last.get(event)
        if last is not None and now - last < self._seconds:
            self._skipped[event] = self._skipped.get(event, 0) + 1
            return
        self._last[event] = now
        skipped = self._skipped.pop(event, 0)
        left_out = f" skipped={skipped}" if skipped else ""
        LOGGER.warning("%s %s%s", event, detail, left_out, exc_info=error)
