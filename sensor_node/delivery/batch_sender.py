"""Claim, send, settle: the one place where the repository and the HTTP client meet."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from sensor_node.config.loader import Config
from sensor_node.core.clock import Clock
from sensor_node.core.model import Claim, Outcome, Verdict
from sensor_node.core.schedule import BackoffPolicy, load_library
from sensor_node.core.settlement import Rules
from sensor_node.delivery import hints
from sensor_node.delivery.idempotency import idempotency_key
from sensor_node.delivery.unforeseen import Unforeseen
from sensor_node.storage.queue.rate_limit import ClaimPolicy
from sensor_node.storage.repository import SensorDataSQLRepository
from sensor_node.system.log import LOGGER

if TYPE_CHECKING:
    from sensor_node.delivery.client import HttpTelemetryClient

MAX_BODY_BYTES = 1024 * 1024
# A request is slow if it takes more than this share of [sink] timeout: one with twice as many
# messages might not end in time.
SLOW = 0.25
# A stopping process still sends its claimed batch, so it claims ahead only if the sink answers
# within this time.
QUICK_SECONDS = 0.1


def rules_of(config: Config) -> Rules:
    """The rules about failures that the configuration sets."""
    retry = config.retry
    backoff = BackoffPolicy(retry.initial_delay, retry.multiplier, retry.max_delay)
    return Rules(backoff, config.sink.at_most_once, retry.max_attempts)


def policy_of(config: Config) -> ClaimPolicy:
    """How batches are claimed, by the configuration."""
    sink = config.sink
    longest = rules_of(config).backoff.longest
    min_free = config.storage.min_free
    return ClaimPolicy(sink.batch_size, sink.max_rate, longest, sink.at_most_once, min_free)


class BatchSender:
    """Sends claimed batches to the sink, one at a time, and settles each by its outcome.

    A batch stays in hand until it is settled. If the database cannot be used for a while, the claim
    must not be forgotten: nobody takes it from an owner that lives. `tell_outcome` wakes the other
    processes after a failure, and after any probe. `connect` makes the HTTP client for the first
    request; it may raise OSError or ImportError.
    """

    def __init__(
        self,
        config: Config,
        repository: SensorDataSQLRepository,
        connect: Callable[[], "HttpTelemetryClient"],
        clock: Clock,
        tell_outcome: Callable[[], None],
    ) -> None:
        self._sink = config.sink
        self._rules = rules_of(config)
        self._repository = repository
        self._connect = connect
        self._client: HttpTelemetryClient | None = None
        self._clock = clock
        self._tell_outcome = tell_outcome
        self._message_bytes = 1  # of a message in the largest body so far
        self._carried = config.sink.batch_size  # messages that the link carries in time
        self._claim: Claim | None = None  # in hand
        self._outcome: Outcome | None = None  # of the claim in hand; None: it was not sent yet
        self._claims_next = False  # whether to claim another batch as that one is settled
        self._next_policy: ClaimPolicy | None = None  # for the claim after it; None: claim none
        self._unforeseen = Unforeseen()

    @property
    def limit(self) -> int:
        """The most messages for one request, by their size and by what the link has carried."""
        return max(1, min(self._carried, MAX_BODY_BYTES // self._message_bytes))

    @property
    def in_hand(self) -> bool:
        """Whether a claim waits for `resume`."""
        return self._claim is not None

    @property
    def has_sent(self) -> bool:
        """Whether it has sent, or tried to, so that it has an HTTP client."""
        return self._client is not None

    @property
    def files(self) -> frozenset[str]:
        """Files whose change may make the sink usable again, as far as they are known yet."""
        return self._client.files if self._client else frozenset(self._sink.secret_files)

    def deliver(self, claim: Claim, next_policy: ClaimPolicy | None = None) -> None:
        """Send the batch and settle it. Raises StorageUnavailable; resume() then goes on.

        With `next_policy` the transaction that settles it may claim the next whole batch, which
        saves a transaction. That one is then in hand, and resume() sends it.
        """
        self._claim, self._next_policy = claim, next_policy
        self.resume()

    def resume(self) -> None:
        """Go on with the claim in hand; what was sent already is only settled.

        Afterwards the next claim may be in hand, yet to be sent.
        """
        claim = self._claim
        assert claim is not None
        if self._outcome is None:
            self._outcome = self._send(claim)
        held, next_claim = self._settle(claim, self._outcome, self._clock.now().wall)
        if not held:
            LOGGER.warning("claim_lost batch=%d-%d", claim.first_id, claim.last_id)
        self._claim, self._outcome = next_claim, None

    def close(self) -> None:
        """Finish the claim in hand, claim nothing more, then close the connection."""
        self._next_policy = None
        if self.in_hand:
            self.resume()
        if self._client:
            self._client.close()

    def _send(self, claim: Claim) -> Outcome:
        """Send the batch in at most one request."""
        self._claims_next = False
        messages = self._repository.read_claim(claim)
        if len(messages) != claim.size:
            # Halving separates the sound messages from the missing one.
            error = f"{claim.size - len(messages)} rows are missing: run sensor-node-ctl audit"
            LOGGER.error("batch_unsent batch=%d-%d %s", claim.first_id, claim.last_id, error)
            return _unsent(error)
        try:
            body = self._sink.format.encode(messages, claim.stream, self._sink.batch_size)
        except Exception as error:
            # The same: a message that cannot be encoded must not stop the others.
            return _unsent(self._unforeseen.outcome(error, fate_known=True).detail)
        if len(body) > MAX_BODY_BYTES and claim.size > 1:
            self._message_bytes = max(self._message_bytes, len(body) // claim.size + 1)
            return _unsent("")
        limit = self.limit
        began = self._clock.now().monotonic
        outcome = self._post(body, idempotency_key(claim, body))
        seconds = self._clock.now().monotonic - began
        self._learn(claim.size, outcome, seconds)
        # At debug level only: an outage is a line for the sink, not for each batch.
        LOGGER.debug(
            "batch_tried batch=%d-%d attempt=%d verdict=%s %s",
            *(claim.first_id, claim.last_id, claim.attempt, outcome.verdict, outcome.detail),
        )
        is_whole = self._next_policy is not None and claim.size >= self._next_policy.limit(limit)
        self._claims_next = is_whole and seconds < QUICK_SECONDS
        return outcome

    def _settle(self, claim: Claim, outcome: Outcome, now: float) -> tuple[bool, Claim | None]:
        """Whether the claim was still ours, and the next one if that was claimed with it."""
        delivered = outcome.verdict is Verdict.DELIVERED
        if self._claims_next and delivered and self._next_policy:
            return self._repository.settle_and_claim(
                claim, outcome, self._rules, self._next_policy, now, self.limit
            )
        if not delivered:
            load_library()  # settling computes a delay in its transaction
        held = self._repository.settle(claim, outcome, self._rules, now)
        if claim.probe or not delivered:
            self._tell_outcome()
        return held, None

    def _post(self, body: bytes, key: str) -> Outcome:
        """Connect first if need be: a process that never sends has no HTTP library in memory."""
        try:
            self._client = self._client or self._connect()
        except OSError as error:  # no file can be opened, or no thread started
            number = error.errno or 0
            detail, hint = os.strerror(number).lower(), hints.BY_ERROR.get(number, "")
            return Outcome(Verdict.TRY_LATER, detail, hint, fate_known=True)
        except ImportError as error:  # not there; or a shared object, which cannot be opened
            detail = f"Python's module {error.name} cannot be loaded"
            return Outcome(Verdict.TRY_LATER, detail, hints.LIBRARY, fate_known=True)
        except Exception as error:
            return self._unforeseen.outcome(error, fate_known=True)
        try:
            return self._client.post(body, key)
        except Exception as error:
            return self._unforeseen.outcome(error, fate_known=False)

    def _learn(self, size: int, outcome: Outcome, seconds: float) -> None:
        """Halve what is sent at a time if the link is too slow for it; double it if not.

        A request that left nothing on the way tells nothing about the link: it could not connect.
        """
        is_slow = seconds > SLOW * self._sink.timeout
        has_left = outcome.answered or not outcome.fate_known
        if is_slow and has_left and outcome.verdict is Verdict.TRY_LATER:
            self._carried = max(1, self._carried // 2)
        elif not is_slow and outcome.verdict is Verdict.DELIVERED and size >= self._carried:
            self._carried = min(2 * self._carried, self._sink.batch_size)


def _unsent(error: str) -> Outcome:
    """Nothing was sent: the batch cannot be sent as it is."""
    return Outcome(Verdict.UNSENT, error, fate_known=True)
