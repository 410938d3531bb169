"""RetryService, the retrier: FAILED batches, claims of dead processes, and a sink that is DOWN."""

from sensor_node.config.loader import Config
from sensor_node.core.clock import Moment
from sensor_node.core.model import Claim
from sensor_node.core.settlement import SinkRecord
from sensor_node.delivery.batch_sender import BatchSender, policy_of
from sensor_node.delivery.signature import signatures
from sensor_node.processes import owner as owners
from sensor_node.processes.context import ServiceContext
from sensor_node.processes.network import open_batch_sender
from sensor_node.storage.queue.claiming import Backlog
from sensor_node.storage.repository import SensorDataSQLRepository
from sensor_node.system.log import LOGGER

LOOK_AROUND_SECONDS = 1.0


def open_service(context: ServiceContext) -> "RetryService":
    """Raises StorageUnavailable."""
    owner = owners.own_owner_id(context.role)
    return RetryService(context.config, owner, *open_batch_sender(context))


class RetryService:
    """The only process that sends anything while the sink is DOWN, one request at a time."""

    def __init__(
        self,
        config: Config,
        owner: str,
        repository: SensorDataSQLRepository,
        batch_sender: BatchSender,
    ) -> None:
        self._sink = config.sink
        self._policy = policy_of(config)
        self._owner = owner
        self._repository = repository
        self._batch_sender = batch_sender
        self._look_around_at = 0.0
        self._has_looked = False
        self._files = signatures(batch_sender.files)

    def step(self, now: Moment) -> float:
        """Retry or probe with one batch, if one is due."""
        if self._batch_sender.in_hand:
            self._batch_sender.resume()
        if now.monotonic >= self._look_around_at:
            self._look_around_at = now.monotonic + LOOK_AROUND_SECONDS
            self._look_around(now)
        backlog = self._repository.backlog(now.wall)
        sink = backlog.sink
        self._tell_of_outage(sink)
        wait = self._time_to_send(backlog, now)
        if wait > 0:
            return min(wait, LOOK_AROUND_SECONDS)
        claim = self._claim(sink, now)
        if claim is None:
            return LOOK_AROUND_SECONDS
        self._batch_sender.deliver(claim)
        return 0.0

    def finish(self, now: Moment) -> None:
        self._batch_sender.close()
        self._repository.close()

    def _time_to_send(self, backlog: Backlog, now: Moment) -> float:
        """Seconds until a batch, or while the sink is DOWN the probe, is due and may be sent."""
        sink = backlog.sink
        if sink.up:
            due_in = self._repository.due_in(self._policy, now.wall)
            return max(due_in, self._policy.wait(backlog.next_send_at, now.wall))
        if sink.probe_due(now.wall, self._policy.longest):
            return 0.0
        return sink.next_probe_at - now.wall

    def _claim(self, sink: SinkRecord, now: Moment) -> Claim | None:
        if self._repository.log_is_held(self._policy.min_free):
            return None
        claim = self._repository.claim_due if sink.up else self._repository.claim_probe
        return claim(self._owner, self._policy, now.wall, self._batch_sender.limit)

    def _look_around(self, now: Moment) -> None:
        """See to what no answer of the sink tells of.

        Reclaim batches of dead owners; park doubtful batches after a change to at-most-once; let
        sensors in again; probe at once if a file with a secret or a certificate has changed.
        """
        at_most_once = self._sink.at_most_once
        for first_id, _, owner in self._repository.claims():
            if not _may_be_alive(owner):
                self._repository.reclaim(first_id, owner, now.wall, at_most_once=at_most_once)
        if at_most_once:
            self._repository.park_doubtful(now.wall)
        while self._repository.let_in(now.wall):
            pass
        before, self._files = self._files, signatures(self._batch_sender.files)
        # A file that was not watched before has no earlier signature to differ from.
        if any(before.get(file, seen) != seen for file, seen in self._files.items()):
            self._repository.probe_now(now.wall)

    def _tell_of_outage(self, sink: SinkRecord) -> None:
        """At the first look: one that began before this process has no line in its run's log."""
        if not self._has_looked and not sink.up:
            LOGGER.warning("sink_is_down %s", sink.reason)
        self._has_looked = True


def _may_be_alive(owner: str) -> bool:
    """Whether a claim must be left to its owner: it lives, or no file can be opened to find out."""
    try:
        return owners.is_alive(owner)
    except OSError:
        return True
