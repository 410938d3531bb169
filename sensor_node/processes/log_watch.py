"""Notes in the history when another program keeps the log from being emptied, and when it ends."""

from sensor_node.core.clock import Moment
from sensor_node.storage.engine import holders
from sensor_node.storage.engine.checkpoint import WAL_LIMIT_BYTES, Log
from sensor_node.storage.journal.log_hold import FREE, HELD
from sensor_node.storage.repository import SensorDataSQLRepository

# A shorter hold, by a backup for example, is not noted.
NOTE_SECONDS = 10.0
# An attempt to empty a long log costs up to 40 ns a frame, even if it moves nothing. While the
# holders are seen to be there, attempts are rarer than looks for the holders.
ATTEMPT_SECONDS = 4.0
LOOK_SECONDS = 1.0
UNSEEN = "a program that this process cannot see"


class LogWatch:
    """The housekeeper tells it of each attempt to empty the log.

    `supervisor` is a pid: its children are ours, and not other programs.
    """

    def __init__(self, repository: SensorDataSQLRepository, supervisor: int) -> None:
        self._repository = repository
        self._supervisor = supervisor
        self._last: Log | None = None
        self._attempt_at = self._look_at = 0.0
        self._since: Moment | None = None
        # None: not read yet. An earlier process may have noted a hold, whose end is ours to note.
        self._noted: bool | None = None

    @property
    def is_held(self) -> bool:
        """Whether the last attempt left something in the log that cannot be moved."""
        return self._last is not None and not self._last.is_emptied

    def is_hopeless(self, now: Moment) -> bool:
        """Whether another attempt so soon after the last would be in vain."""
        if now.monotonic >= self._attempt_at:
            return False
        if now.monotonic < self._look_at:
            return True
        self._look_at = now.monotonic + LOOK_SECONDS
        return bool(holders.find(self._repository.path, self._supervisor))

    def record_attempt(self, log: Log | None, wal_bytes: int, now: Moment) -> bool:
        """Judge an attempt by its result. Returns whether it moved anything.

        `log` is None if there was nothing to do. Our own processes read too, but each only for a
        moment: then an attempt always moves something.
        """
        if self._noted is None:
            self._noted = self._repository.log_hold() is not None
        before, self._last = self._last, log
        moved = log is not None and (before is None or log.moved != before.moved)
        beyond = wal_bytes > WAL_LIMIT_BYTES
        if not self.is_held or (moved and before is not None and not beyond):
            self._since = None
            self._note_end(now)
        else:
            self._since = self._since or now
            self._note(self._since, now, beyond=beyond)
        self._attempt_at = 0.0
        if self.is_held and not moved:
            self._look_at = now.monotonic + LOOK_SECONDS
            self._attempt_at = now.monotonic + (ATTEMPT_SECONDS if self._noted else LOOK_SECONDS)
        return moved or (log is not None and log.is_emptied)

    def _note(self, since: Moment, now: Moment, *, beyond: bool) -> None:
        if self._noted or now.monotonic - since.monotonic < NOTE_SECONDS:
            return
        names = ", ".join(map(str, holders.find(self._repository.path, self._supervisor)))
        if names or beyond:
            self._repository.record_event(since.wall, HELD, names or UNSEEN)
            self._noted = True

    def _note_end(self, now: Moment) -> None:
        if self._noted:
            self._repository.record_event(now.wall, FREE, "it can be emptied again")
            self._noted = False
