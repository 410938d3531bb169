"""SensorService, the generator: captures readings and commits them, whatever the network does."""

import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sensor_node.config.loader import Config
from sensor_node.core.clock import Clock, Moment
from sensor_node.core.errors import StorageUnavailable
from sensor_node.processes import owner
from sensor_node.processes.buffer import Buffer
from sensor_node.processes.context import ServiceContext
from sensor_node.processes.sampler import Sampler
from sensor_node.processes.sensor import Sensor
from sensor_node.processes.watch import Watch
from sensor_node.sensors import open_source, prepare
from sensor_node.sensors.source import SensorConfig
from sensor_node.storage.engine.checkpoint import WAL_EMERGENCY_BYTES
from sensor_node.storage.journal.runs import NodeIdentity
from sensor_node.storage.queue.room import LOG_HELD, NO_ROOM, SizeLimits
from sensor_node.storage.repository import SensorDataSQLRepository
from sensor_node.system.log import LOGGER

# Up to this many readings a second each is its own commit.
SINGLE_COMMIT_RATE = 10.0
# See docs/adr/0015: the time a reading waits for its commit, against fsyncs a second.
GROUP_COMMIT_SECONDS = 0.03
# A commit holds the write lock, for which a sender waits twice a batch: with 10,000 readings in
# each, two senders deliver 0.6 times as much.
READINGS_A_COMMIT = 5000
STOP_SAMPLING_SECONDS = 2.0
IDLE_SECONDS = 1.0
# A process of ours, too, may be reading at the moment when the log is to be emptied.
HELD_SECONDS = 2.0
ASK_SECONDS = 1.0
# The account is written to the log that has no room.
ACCOUNT_SECONDS = 10.0
# A log that is held cannot be emptied, and each attempt takes time.
EMERGENCY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Start:
    """How this generator came to be: `run` names the run, which may have had others before it.

    `run_started` is when the run began, in monotonic seconds.
    """

    who: NodeIdentity
    run: str
    run_started: float


def open_service(context: ServiceContext) -> "SensorService":
    """Capturing begins at once; the database is opened at the first step."""
    config = context.config
    settings = {f"[{row.section}] {row.option}": row.value for row in config.effective}
    run = owner.owner_id_of("supervisor", context.supervisor)
    start = Start(NodeIdentity(config.node_id, settings), run, context.run_started)

    def open_repository() -> SensorDataSQLRepository:
        return context.open_repository(power_safe=True)

    tell_commit = context.bell.tell_commit
    service = SensorService(
        config, start, open_repository, context.clock, context.wake, tell_commit
    )
    service.start_sampling()
    return service


class SensorService:
    """Threads sample into a bounded buffer; this one writes, and watches over them.

    Waiting for the lock or the disk never delays a tick. `open_repository` may fail for as long
    as the disk is full; readings wait in memory meanwhile. `wake` ends the present wait;
    `tell_commit` tells the senders.
    """

    def __init__(
        self,
        config: Config,
        start: Start,
        open_repository: Callable[[], SensorDataSQLRepository],
        clock: Clock,
        wake: Callable[[], None],
        tell_commit: Callable[[], None],
    ) -> None:
        self._sensors = config.sensors
        self._start = start
        self._open_repository = open_repository
        self._repository: SensorDataSQLRepository | None = None
        self._has_captured = False
        self._room = SizeLimits(config.storage.max_size, config.storage.min_free)
        self._evicts = config.storage.when_full == "drop-oldest"
        self._interval = commit_interval(config)
        self._tell_commit = tell_commit
        self._buffer = Buffer(config.sensors, self._interval)
        self._commit_at = self._emergency_at = 0.0
        self._held_since: float | None = None
        self._ask_at = self._account_at = 0.0
        prepare(config.sensors)
        self._started = clock.now()
        on_reading = _nothing if self._interval else wake
        self._samplers = [
            Sampler(sensors, clock, on_reading)
            for sensors in _sampler_threads(config, self._buffer, self._started)
        ]
        self._watch = Watch(self._samplers, self._started)

    def start_sampling(self) -> None:
        for sampler in self._samplers:
            sampler.start(self._started)

    def step(self, now: Moment) -> float:
        """When it is time, commit what is in the buffer, up to one transaction's worth."""
        self._watch.look(now)
        self._end_with_a_thread(now)
        urgent = self._buffer.is_half_full() or self._watch.has_news
        if now.monotonic < self._commit_at and not urgent:
            return self._commit_at - now.monotonic
        try:
            repository = self._opened(now)
            if self._buffer.trouble == "I/O error":
                _write_anew(repository)
            more = self._commit(repository, now)
        except StorageUnavailable as error:
            self._buffer.trouble = error.reason
            self._disconnect_if_replaced(error, now)
            raise
        self._mind_emergency(repository, now)
        if more:
            return 0.0
        self._commit_at = now.monotonic + self._interval
        return self._interval or IDLE_SECONDS

    def finish(self, now: Moment) -> None:
        """Stop sampling, then commit what is left."""
        for sampler in self._samplers:
            sampler.ask_to_stop()
        deadline = time.monotonic() + STOP_SAMPLING_SECONDS
        for sampler in self._samplers:
            sampler.join(max(0.0, deadline - time.monotonic()))
        for sampler in self._samplers:
            sampler.settle(now)
        self._watch.look_again(now)
        try:
            self._commit_all(now)
        except StorageUnavailable as error:
            if not self._disconnect_if_replaced(error, now):
                raise
            self._commit_all(now)

    def _commit_all(self, now: Moment) -> None:
        repository = self._opened(now)
        while self._commit(repository, now, last=True):
            pass
        if signs := self._watch.changed(now):
            repository.capture([], [], now.wall, self._room, signs)
        repository.close()

    def _commit(
        self, repository: SensorDataSQLRepository, now: Moment, *, last: bool = False
    ) -> bool:
        """One transaction. Returns whether to go on with what is in the buffer.

        With drop-oldest, what there is no room for waits there for eviction, but not at the `last`.
        """
        chunks, dropped = self._buffer.oldest(READINGS_A_COMMIT), self._buffer.dropped()
        if not chunks and not dropped and not self._watch.has_news:
            self._buffer.trouble = ""
            return False
        if self._is_log_held(repository, now) and not (last and self._may_be_brief(now)):
            return self._go_without_log(repository, now, last=last)
        readings = chunks[0] if len(chunks) == 1 else list(itertools.chain.from_iterable(chunks))
        waiting = self._evicts and not last
        signs = self._watch.signs(now)
        stored = repository.capture(readings, dropped, now.wall, self._room, signs, waiting=waiting)
        self._watch.noted(signs, now)
        self._watch.stored(self._buffer.forget(stored, []))
        if stored:
            self._tell_commit()
        if stored < len(readings) and waiting:
            self._buffer.trouble = NO_ROOM
            return stored > 0
        self._buffer.forget(len(readings) - stored, dropped)
        self._buffer.trouble = ""
        if stored < len(readings):
            times = [reading.captured_us for reading in readings[stored:]]
            self._buffer.drop(NO_ROOM, len(times), min(times), max(times))
            return True
        return len(readings) >= READINGS_A_COMMIT

    def _mind_emergency(self, repository: SensorDataSQLRepository, now: Moment) -> None:
        """Empty the log, should no housekeeper live to do it."""
        if repository.wal_bytes() < WAL_EMERGENCY_BYTES or now.monotonic < self._emergency_at:
            return
        if not repository.checkpoint(truncate=True).is_emptied:
            self._emergency_at = now.monotonic + EMERGENCY_SECONDS

    def _is_log_held(self, repository: SensorDataSQLRepository, now: Moment) -> bool:
        """Whether nothing can be stored while another program reads; asked now and then."""
        if self._held_since is not None and now.monotonic < self._ask_at:
            return True
        if not repository.log_is_held(self._room.min_free):
            self._held_since = None
            return False
        self._ask_at = now.monotonic + ASK_SECONDS
        if self._held_since is None:
            self._held_since, self._account_at = now.monotonic, 0.0
        return True

    def _may_be_brief(self, now: Moment) -> bool:
        return self._held_since is None or now.monotonic - self._held_since < HELD_SECONDS

    def _go_without_log(
        self, repository: SensorDataSQLRepository, now: Moment, *, last: bool
    ) -> bool:
        """Drop what came, and write the account of it now and then, while the reserve lasts.

        Meanwhile it is in memory: a successor would count from the last account on.
        """
        self._buffer.trouble = LOG_HELD
        if self._may_be_brief(now):
            return False
        self._buffer.drop_all(LOG_HELD)
        is_time = now.monotonic >= self._account_at and not repository.space(self._room).exhausted
        if last or is_time:
            self._account_at = now.monotonic + ACCOUNT_SECONDS
            dropped, signs = self._buffer.dropped(), self._watch.signs(now)
            repository.capture([], dropped, now.wall, self._room, signs)
            self._watch.noted(signs, now)
            self._buffer.forget(0, dropped)
        return False

    def _opened(self, now: Moment) -> SensorDataSQLRepository:
        if self._repository is None:
            repository = self._open_repository()
            start = self._start
            try:
                last_us = repository.begin_run(
                    start.who, self._started.wall, start.run, follows=self._has_captured
                )
                repository.watch_sensors(self._watch.begin(), now.monotonic)
            except BaseException:
                repository.close()  # another one is opened at the next try
                raise
            # What came since a database of this process's was taken away is in the buffer.
            if last_us is not None and not self._has_captured:
                self._drop_missed(last_us)
            self._repository, self._has_captured = repository, True
        return self._repository

    def _end_with_a_thread(self, now: Moment) -> None:
        """A thread that ended though nobody asked it to: a new process begins with all of them."""
        ended = [sampler for sampler in self._samplers if sampler.has_ended]
        if not ended:
            return
        try:
            self.finish(now)
        except StorageUnavailable as error:
            LOGGER.error("storage_unavailable %s", error)
        raise RuntimeError("a sampling thread has ended") from ended[0].failure

    def _disconnect_if_replaced(self, error: StorageUnavailable, now: Moment) -> bool:
        """The next database is a fresh one, and has to be told who captures."""
        if error.reason != "replaced":
            return False
        if self._repository is not None:
            self._repository.close()
            self._repository, self._started = None, now
        return True

    def _drop_missed(self, last_us: int) -> None:
        """The ticks between what our predecessor accounted for and our first reading."""
        gap = self._started.wall - last_us / 1e6
        gap = min(gap, self._started.monotonic - self._start.run_started)
        for sensor in self._sensors:
            if (missed := round(gap * sensor.rate) - 1) > 0:
                self._buffer.drop("not running", missed, last_us, self._started.wall_us)


def commit_interval(config: Config) -> float:
    """Seconds between commits; 0 for a commit each reading."""
    if config.storage.commit_interval is not None:
        return config.storage.commit_interval
    rate = sum(sensor.rate for sensor in config.sensors)
    return 0.0 if rate <= SINGLE_COMMIT_RATE else GROUP_COMMIT_SECONDS


def _sampler_threads(config: Config, buffer: Buffer, now: Moment) -> list[list[Sensor]]:
    """Sensors that share a thread: only simulated ones, as whatever is real may hang."""
    directory: Path = config.runtime_directory

    def sensor(one: SensorConfig) -> Sensor:
        return Sensor(one, lambda: open_source(one, directory), buffer, now)

    simulated = [sensor(one) for one in config.sensors if one.is_simulated]
    real = [[sensor(one)] for one in config.sensors if not one.is_simulated]
    return [*([simulated] if simulated else []), *real]


def _write_anew(repository: SensorDataSQLRepository) -> None:
    """Begin a new WAL after a failed commit.

    After an fsync that failed the kernel takes the pages for written, those of other processes'
    commits too: a hole in the WAL, behind which a power cut would lose what is committed next.
    """
    # Where it fails once more, the WAL with its hole is all there is.
    with contextlib.suppress(StorageUnavailable):
        repository.checkpoint(truncate=True)


def _nothing() -> None:
    """Nobody waits for a single reading."""
