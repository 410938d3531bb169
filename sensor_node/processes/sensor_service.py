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

# Up to this many readings a second, each has a commit of its own.
SINGLE_COMMIT_RATE = 10.0
# See docs/adr/0015: the time a reading waits for its commit, against fsyncs a second.
GROUP_COMMIT_SECONDS = 0.03
# A commit holds the write lock, for which a sender waits twice a batch: with 10,000 readings in
# each, two senders deliver 0.6 times as much.
READINGS_A_COMMIT = 5000
STOP_SAMPLING_SECONDS = 2.0
IDLE_SECONDS = 1.0
# Our own processes read too, each for a moment: a log that is held for less than this is normal.
HELD_SECONDS = 2.0
ASK_SECONDS = 1.0
# Seconds between accounts of what was dropped: each one is written to the log that has no room.
ACCOUNT_SECONDS = 10.0
# A log that is held cannot be emptied, and each attempt takes time.
EMERGENCY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Start:
    """The run that this generator belongs to. A run may have several generators, one by one."""

    node: NodeIdentity
    run: str  # the supervisor's owner id
    run_started: float  # monotonic seconds


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
    """Threads sample into a bounded buffer; this thread writes, and watches over them.

    So waiting for the lock or the disk never delays a tick. While `open_repository` fails, on a
    full disk for example, readings wait in memory. `wake` ends the present wait; `tell_commit`
    tells the senders of new readings.
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
        """Write one transaction. Returns whether to go on at once with more of the buffer.

        With drop-oldest, readings that find no room stay in the buffer until the housekeeper has
        evicted others. In the `last` commits of this process they are dropped instead.
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
        """Empty a very long log, as no housekeeper seems to do it."""
        if repository.wal_bytes() < WAL_EMERGENCY_BYTES or now.monotonic < self._emergency_at:
            return
        if not repository.checkpoint(truncate=True).is_emptied:
            self._emergency_at = now.monotonic + EMERGENCY_SECONDS

    def _is_log_held(self, repository: SensorDataSQLRepository, now: Moment) -> bool:
        """Whether a reader keeps the log so long that nothing more can be stored.

        While it does, the database is asked only every ASK_SECONDS.
        """
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
        """Whether the log may be held by one of our own processes, for a moment."""
        return self._held_since is None or now.monotonic - self._held_since < HELD_SECONDS

    def _go_without_log(
        self, repository: SensorDataSQLRepository, now: Moment, *, last: bool
    ) -> bool:
        """Drop the readings once the log has been held for HELD_SECONDS.

        Now and then write how many were dropped, as long as the reserve has room for it. In between
        the count is only in memory: after a death, a successor counts all ticks since the last
        account as dropped.
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
                    start.node, self._started.wall, start.run, follows=self._has_captured
                )
                repository.watch_sensors(self._watch.begin(), now.monotonic)
            except BaseException:
                repository.close()  # another one is opened at the next try
                raise
            # If this process had a database before, what came since then is in the buffer.
            if last_us is not None and not self._has_captured:
                self._drop_missed(last_us)
            self._repository, self._has_captured = repository, True
        return self._repository

    def _end_with_a_thread(self, now: Moment) -> None:
        """If a sampling thread died, end this process: the next one starts all threads anew."""
        ended = [sampler for sampler in self._samplers if sampler.has_ended]
        if not ended:
            return
        try:
            self.finish(now)
        except StorageUnavailable as error:
            LOGGER.error("storage_unavailable %s", error)
        raise RuntimeError("a sampling thread has ended") from ended[0].failure

    def _disconnect_if_replaced(self, error: StorageUnavailable, now: Moment) -> bool:
        """Close a database that was replaced, so that the next step opens the new one.

        Returns whether it was replaced.
        """
        if error.reason != "replaced":
            return False
        if self._repository is not None:
            self._repository.close()
            self._repository, self._started = None, now
        return True

    def _drop_missed(self, last_us: int) -> None:
        """Count the ticks between our predecessor's last account and our start as dropped."""
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
    """The sensors of each thread: simulated ones share one; each real one may hang, so has one."""
    directory: Path = config.runtime_directory

    def make_sensor(sensor: SensorConfig) -> Sensor:
        return Sensor(sensor, lambda: open_source(sensor, directory), buffer, now)

    simulated = [make_sensor(sensor) for sensor in config.sensors if sensor.is_simulated]
    real = [[make_sensor(sensor)] for sensor in config.sensors if not sensor.is_simulated]
    return [*([simulated] if simulated else []), *real]


def _write_anew(repository: SensorDataSQLRepository) -> None:
    """Begin a new WAL after a commit whose fsync failed.

    After a failed fsync the kernel regards the pages as written, also those of other processes'
    commits. So the WAL may have a hole, and a power cut would lose all commits behind it.
    """
    # If this fails too, there is nothing but the WAL with its hole: go on with it.
    with contextlib.suppress(StorageUnavailable):
        repository.checkpoint(truncate=True)


def _nothing() -> None:
    """In place of `wake`: with group commits the writer does not wait for single readings."""
