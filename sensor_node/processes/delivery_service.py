"""DeliveryService, the sender: while the sink is UP, claims batches and delivers them.

Left-over batches go first, then fresh readings: oldest first. But left-over batches that are not
whole take turns with fresh ones, since there may be thousands of them, with one message each.
"""

from collections.abc import Callable

from sensor_node.config.loader import Config
from sensor_node.core.clock import Moment
from sensor_node.core.model import Claim
from sensor_node.delivery.batch_sender import BatchSender, policy_of
from sensor_node.processes import owner as owners
from sensor_node.processes.context import ServiceContext
from sensor_node.processes.network import open_batch_sender
from sensor_node.processes.service import LONGEST_WAIT_SECONDS
from sensor_node.storage.queue.claiming import Backlog
from sensor_node.storage.repository import SensorDataSQLRepository

# A sender that has never sent anything waits this much longer than those that have. As long as one
# sender can do the work, the others need neither memory for HTTP nor a connection.
PATIENCE_SECONDS = 0.1
UNSEEN = -1


def open_service(context: ServiceContext) -> "DeliveryService":
    """Raises StorageUnavailable."""
    owner = owners.own_owner_id(context.role)
    repository, batch_sender = open_batch_sender(context)
    listen = context.bell.listen_for_commits
    return DeliveryService(context.config, owner, repository, batch_sender, listen)


class DeliveryService:
    """One sender of a pool; they know nothing of each other.

    It calls `listen_for_commits` to be woken by commits or not: not while the sink is DOWN.
    """

    def __init__(
        self,
        config: Config,
        owner: str,
        repository: SensorDataSQLRepository,
        batch_sender: BatchSender,
        listen_for_commits: Callable[[bool], None],
    ) -> None:
        self._sink = config.sink
        self._policy = policy_of(config)
        self._owner = owner
        self._repository = repository
        self._batch_sender = batch_sender
        self._listen_for_commits = listen_for_commits
        self._listening = True
        self._version = UNSEEN
        self._took_part = False
        self._oldest_us: int | None = None
        self._oldest_seen_at = 0.0

    def step(self, now: Moment) -> float:
        """Deliver one batch, if there is one and it is time."""
        if self._batch_sender.in_hand:
            self._batch_sender.resume()
            return 0.0
        version = self._repository.version()
        if version == self._version:
            return LONGEST_WAIT_SECONDS
        backlog = self._repository.backlog(now.wall)
        if backlog.sink.up != self._listening:
            self._listening = backlog.sink.up
            self._listen_for_commits(self._listening)
            # A ring of just now was perhaps not heard: look again.
            backlog = self._repository.backlog(now.wall)
        if not backlog.sink.up or not (backlog.pending or backlog.left_over):
            self._version = version
            return LONGEST_WAIT_SECONDS
        self._version = UNSEEN
        wait = 0.0 if backlog.left_over else self._time_to_fill(backlog, now)
        wait = max(wait, self._policy.wait(backlog.next_send_at, now.wall))
        if wait > 0:
            return wait
        claim = self._claim(backlog, now)
        if claim is None:
            return LONGEST_WAIT_SECONDS
        self._batch_sender.deliver(claim, next_policy=self._policy)
        return 0.0

    def finish(self, now: Moment) -> None:
        self._batch_sender.close()
        self._repository.close()

    def _claim(self, backlog: Backlog, now: Moment) -> Claim | None:
        if self._repository.log_is_held(self._policy.min_free):
            return None
        arguments = (self._owner, self._policy, now.wall, self._batch_sender.limit)
        claim = None
        if backlog.left_over and not (self._took_part and backlog.pending):
            claim = self._repository.claim_left_over(*arguments)
        self._took_part = claim is not None and claim.size < self._batch_sender.limit
        return claim or self._repository.claim_fresh(*arguments)

    def _time_to_fill(self, backlog: Backlog, now: Moment) -> float:
        """Seconds that an incomplete batch may still wait for more readings.

        Its oldest reading is as old as the wall clock says, or as long as this process has seen it,
        whichever is more: the wall clock may have been set back.
        """
        if backlog.oldest_pending_us != self._oldest_us:
            self._oldest_us = backlog.oldest_pending_us
            self._oldest_seen_at = now.monotonic
        if backlog.pending >= self._batch_sender.limit or self._oldest_us is None:
            return 0.0
        age = max(now.wall - self._oldest_us / 1e6, now.monotonic - self._oldest_seen_at)
        patience = 0.0 if self._batch_sender.has_sent else PATIENCE_SECONDS
        return self._sink.send_interval + patience - age
