"""DeliveryService, the sender: claims fresh batches while the sink is UP, and delivers them."""

from sensor_node.clock import Moment
from sensor_node.config import Config
from sensor_node.delivery.deliver import Courier, policy_of
from sensor_node.storage.repository import Backlog, SensorDataSQLRepository

# Asking whether another process has committed costs 10 µs; this bounds a reading's latency.
POLL_SECONDS = 0.1
UNSEEN = -1


class DeliveryService:
    """One of a pool, whose members know nothing of each other."""

    def __init__(
        self, config: Config, owner: str, repository: SensorDataSQLRepository, courier: Courier
    ) -> None:
        self._sink = config.sink
        self._policy = policy_of(config)
        self._owner = owner
        self._repository = repository
        self._courier = courier
        self._version = UNSEEN
        self._oldest_us: int | None = None
        self._oldest_seen_at = 0.0

    def step(self, now: Moment) -> float:
        """Deliver one batch, if there is one and it is time."""
        if self._courier.in_hand:
            self._courier.resume()
        version = self._repository.version()
        if version == self._version:
            return POLL_SECONDS
        backlog = self._repository.backlog()
        if not backlog.pending or not backlog.sink.up:
            self._version = version
            return POLL_SECONDS
        self._version = UNSEEN
        wait = self._time_to_fill(backlog, now)
        if wait > 0:
            return wait
        claim = self._repository.claim_fresh(
            self._owner, self._policy, now.wall, self._courier.limit
        )
        if claim is None:
            return POLL_SECONDS
        self._courier.deliver(claim)
        return 0.0

    def finish(self, now: Moment) -> None:
        self._courier.close()
        self._repository.close()

    def _time_to_fill(self, backlog: Backlog, now: Moment) -> float:
        """Seconds that an incomplete batch may still wait for more readings.

        Its oldest reading's age is taken by the wall clock or by how long this process has seen
        it, whichever is more: the wall clock may have been set back.
        """
        if backlog.oldest_pending_us != self._oldest_us:
            self._oldest_us = backlog.oldest_pending_us
            self._oldest_seen_at = now.monotonic
        if backlog.pending >= self._courier.limit or self._oldest_us is None:
            return 0.0
        age = max(now.wall - self._oldest_us / 1e6, now.monotonic - self._oldest_seen_at)
        return self._sink.send_interval - age
