"""HousekeepingService: checkpoints, retention, size limits, the clock, and an hourly line."""

from collections.abc import Callable

from sensor_node.config.loader import Config
from sensor_node.core.clock import Moment
from sensor_node.processes.context import ServiceContext
from sensor_node.processes.log_watch import LogWatch
from sensor_node.storage.engine.checkpoint import WAL_CHECKPOINT_BYTES, WAL_LIMIT_BYTES
from sensor_node.storage.journal.clock_steps import LEAST_STEP_SECONDS
from sensor_node.storage.queue.room import SizeLimits, Space
from sensor_node.storage.repository import SensorDataSQLRepository
from sensor_node.system.log import LOGGER
from sensor_node.system.proc import boot_id

STEP_SECONDS = 1.0
# Under load the WAL grows by tens of MB a second, and room that was made is soon gone.
BUSY_STEP_SECONDS = 0.1
SWEEP_SECONDS = 60.0
# A sweep passes over some messages, such as those delivered at a second try; a whole sweep, this
# often, looks at them again.
WHOLE_SWEEP_SECONDS = 3600.0
SAMPLE_SECONDS = 10.0
SUMMARY_SECONDS = 3600.0
CLOCK_NOTE_SECONDS = 3600.0
# DEAD and IN_DOUBT messages wait for a person, but not at the cost of all others.
PARKED_SHARE = 0.1


def open_service(context: ServiceContext) -> "HousekeepingService":
    """Raises StorageUnavailable."""
    repository = context.open_repository(power_safe=False)
    return HousekeepingService(context.config, repository, context.is_final, context.supervisor)


class HousekeepingService:
    """The only process that deletes.

    `is_final` says at the end whether the whole appliance stops, or only this process is replaced.
    `supervisor` is a pid: its children are not other programs.
    """

    def __init__(
        self,
        config: Config,
        repository: SensorDataSQLRepository,
        is_final: Callable[[], bool],
        supervisor: int,
    ) -> None:
        self._is_final = is_final
        self._storage = config.storage
        self._room = SizeLimits(config.storage.max_size, config.storage.min_free)
        self._repository = repository
        self._checked = False
        self._moved_wal_bytes = 0
        self._log = LogWatch(repository, supervisor)
        self._busy = False
        self._sweeping = False
        # The id from which the sweep goes on; what it has passed over waits for a whole one.
        self._swept = 0
        self._room_cursor = 0
        self._sweep_at = self._whole_sweep_at = self._sample_at = 0.0
        self._summary_at: float | None = None
        self._boot = boot_id()
        self._clock_offset = 0.0
        self._clock_noted_at: float | None = None

    def step(self, now: Moment) -> float:
        """Do one chunk of work, the most urgent first."""
        if not self._checked:
            # Only now that the process is ready: so a start takes as long with any backlog.
            self._checked = True
            self._repository.check_for_damage()
        # First, because what follows decides by the clock.
        self._mind_clock(now)
        space = self._repository.space(self._room)
        if self._checkpoint(space, now):
            self._busy = True
            space = self._repository.space(self._room)
        if space.tight and self._log.is_held:
            # Another write would take the room that is needed to empty the log.
            return STEP_SECONDS
        if now.monotonic >= self._sample_at:
            self._sample_at = now.monotonic + SAMPLE_SECONDS
            self._repository.sample(now.boottime)
        self._summarise(now)
        if space.left < space.spare and self._make_room(space, now):
            self._busy = True
            return 0.0
        if self._retain(now) or self._limit_parked(space, now):
            return 0.0
        busy, self._busy = self._busy, False
        return BUSY_STEP_SECONDS if busy else STEP_SECONDS

    def finish(self, now: Moment) -> None:
        """Note an orderly stop, as the last process to end; empty the log, and close."""
        if self._is_final():
            self._repository.end_run(now.wall)
        self._repository.checkpoint(truncate=True)
        self._repository.close()

    def _checkpoint(self, space: Space, now: Moment) -> bool:
        """Make a checkpoint if it is time. Returns whether it moved anything.

        It is not made if the whole WAL was moved before and has not grown since. On a cramped disk
        it is made anyway: the WAL cannot grow, and its room is used again only after a checkpoint.
        """
        size = self._repository.wal_bytes()
        if not space.cramped and (size <= WAL_CHECKPOINT_BYTES or size == self._moved_wal_bytes):
            self._log.record_attempt(None, size, now)
            return False
        if self._log.is_hopeless(now):
            return False
        log = self._repository.checkpoint(truncate=size > WAL_LIMIT_BYTES)
        self._moved_wal_bytes = size if log.is_emptied else 0
        return self._log.record_attempt(log, size, now)

    def _mind_clock(self, now: Moment) -> None:
        """Note the wall clock against the time since boot, which nobody can set: steps show."""
        offset, noted_at = now.wall - now.boottime, self._clock_noted_at
        if (
            noted_at is None
            or abs(offset - self._clock_offset) >= LEAST_STEP_SECONDS
            or now.monotonic - noted_at >= CLOCK_NOTE_SECONDS
        ):
            self._repository.note_clock(now, self._boot)
            self._clock_offset, self._clock_noted_at = offset, now.monotonic

    def _make_room(self, space: Space, now: Moment) -> bool:
        """Delivered readings first, then what `when_full` says. Returns whether any was made."""
        if self._purge_any(now):
            return True
        if self._storage.when_full == "drop-newest":
            return False
        if space.wal_bytes > WAL_LIMIT_BYTES and space.limit < self._storage.max_size:
            return False  # the log takes the room, and an eviction would make it longer
        reason = "max_size" if space.limit >= self._storage.max_size else "min_free"
        return self._repository.evict_oldest(reason, now.wall) > 0

    def _purge_any(self, now: Moment) -> bool:
        """Purge one chunk of delivered readings. Returns whether there was any.

        It goes on where the last call ended, at most once around the table.
        """
        counts = self._repository.counts()
        ends = 0 if counts.sent > counts.purged else 2
        while ends < 2:
            purged = self._repository.purge(self._room_cursor, None, now.wall)
            self._room_cursor = 0 if purged.ended else purged.after
            if purged.messages:
                return True
            ends += purged.ended
        return False

    def _retain(self, now: Moment) -> bool:
        """Delete one chunk of what is older than keep_sent or max_age. Returns whether to go on."""
        max_age = self._storage.max_age
        if max_age and self._repository.evict_older_than(int((now.wall - max_age) * 1e6), now.wall):
            return True
        if not self._sweeping and now.monotonic < self._sweep_at:
            return False
        if not self._sweeping:
            self._begin_sweep(now)
        due = now.wall - self._storage.keep_sent
        purged = self._repository.purge(self._swept, due, now.wall)
        self._swept, self._sweeping = purged.after, not purged.ended
        return self._sweeping

    def _begin_sweep(self, now: Moment) -> None:
        """Each minute begin where the last sweep ended, and each hour at the lowest id."""
        self._sweep_at = now.monotonic + SWEEP_SECONDS
        if now.monotonic >= self._whole_sweep_at:
            self._whole_sweep_at = now.monotonic + WHOLE_SWEEP_SECONDS
            self._swept = 0

    def _limit_parked(self, space: Space, now: Moment) -> bool:
        """Evict parked messages beyond their share of max_size. Returns whether it evicted any."""
        counts = self._repository.counts()
        parked = counts.dead + counts.in_doubt
        rows = counts.undelivered + parked + counts.sent - counts.purged
        if not parked or parked * space.used / rows <= self._storage.max_size * PARKED_SHARE:
            return False
        return self._repository.evict_parked("DEAD and IN_DOUBT over 10% of max_size", now.wall) > 0

    def _summarise(self, now: Moment) -> None:
        if self._summary_at is not None and now.monotonic < self._summary_at:
            return
        if self._summary_at is not None:
            counts = self._repository.counts()
            LOGGER.info(
                "summary captured=%d undelivered=%d sent=%d evicted=%d dropped=%d",
                *(counts.captured, counts.undelivered, counts.sent),
                *(counts.evicted, counts.dropped),
            )
        self._summary_at = now.monotonic + SUMMARY_SECONDS
