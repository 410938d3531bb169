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
# A request that takes more than this share of its time is slow: one twice as large might not end.
SLOW = 0.25
# Who is asked to stop still sends what is claimed: from a slower sink that would take its time.
QUICK_SECONDS = 0.1


def rules_of(config: Config) -> Rules:
    """What the configuration says about failures."""
    retry = config.retry
    backoff = BackoffPolicy(retry.initial_delay, retry.multiplier, retry.max_delay)
    return Rules(backoff, config.sink.at_most_once, retry.max_attempts)


def policy_of(config: Config) -> ClaimPolicy:
    """What the configuration says about claims."""
    sink = config.sink
    longest = rules_of(config).backoff.longest
    min_free = config.storage.min_free
    return ClaimPolicy(sink.batch_size, sink.max_rate, longest, sink.at_most_once, min_free)


class BatchSender:
    """Takes claimed batches to the sink, one at a time, and settles what came of each.

    A batch stays in hand until it is settled: a database that cannot be used for a while must not
    leave a claim behind whose owner lives. `tell_outcome` tells the others of what is to be tried
    again, and of what became of a probe.
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
        self._message_bytes = 1
        self._carried = config.sink.batch_size
        self._claim: Claim | None = None
        self._outcome: Outcome | None = None
        self._goes_on = False
        self._then: ClaimPolicy | None = None
        self._unforeseen = Unforeseen()

    @property
    def limit(self) -> int:
        """The most messages for one request, going by those seen so far and how they fared."""
        return max(1, min(self._carried, MAX_BODY_BYTES // self._message_bytes))

    @property
    def in_hand(self) -> bool:
        """Whether a claim waits for `resume`."""
        return self._claim is not None

    @property
    def has_sent(self) -> bool:
        """Whether it has a client already."""
        return self._client is not None

    @property
    def files(self) -> frozenset[str]:
        """The files that a change of may repair the sink, as far as they are known yet."""
        return self._client.files if self._client else frozenset(self._sink.secret_files)

    def deliver(self, claim: Claim, then: ClaimPolicy | None = None) -> None:
        """Send the batch and settle it. `then` go on with the next one that is whole: see resume().

        What is claimed while the one before is settled saves a transaction for each batch.
        """
        self._claim, self._then = claim, then
        self.resume()

    def resume(self) -> None:
        """Go on with the claim in hand; what was sent is not sent again.

        Afterwards the next one may be in hand, yet to be sent.
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
        """Finish what is still in hand, claim nothing more, then hang up."""
        self._then = None
        if self.in_hand:
            self.resume()
        if self._client:
            self._client.close()

    def _send(self, claim: Claim) -> Outcome:
        """One request at most."""
        self._goes_on = False
        messages = self._repository.read_claim(claim)
        if len(messages) != claim.size:
            # Halving leaves the sound messages and the missing one apart.
            error = f"{claim.size - len(messages)} rows are missing: run sensor-node-ctl audit"
            LOGGER.error("batch_unsent batch=%d-%d %s", claim.first_id, claim.last_id, error)
            return _unsent(error)
        try:
            body = self._sink.format.encode(messages, claim.stream, self._sink.batch_size)
        except Exception as error:
            # The same: what cannot be told to the sink stops none of the others.
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
        line = "batch_tried batch=%d-%d attempt=%d verdict=%s %s"
        said = (claim.attempt, outcome.verdict, outcome.detail)
        LOGGER.debug(line, claim.first_id, claim.last_id, *said)
        whole = self._then is not None and claim.size >= self._then.limit(limit)
        self._goes_on = whole and seconds < QUICK_SECONDS
        return outcome

    def _settle(self, claim: Claim, outcome: Outcome, now: float) -> tuple[bool, Claim | None]:
        """Whether the claim was still ours, and the next one if it goes on with that."""
        delivered = outcome.verdict is Verdict.DELIVERED
        if self._goes_on and delivered and self._then:
            return self._repository.settle_and_claim(
                claim, outcome, self._rules, self._then, now, self.limit
            )
        if not delivered:
            load_library()
        held = self._repository.settle(claim, outcome, self._rules, now)
        if claim.probe or not delivered:
            self._tell_outcome()
        return held, None

    def _post(self, body: bytes, key: str) -> Outcome:
        """Who has never sent anything has no HTTP library in memory."""
        try:
            self._client = self._client or self._connect()
        except OSError as error:  # no file can be opened, no thread started
            number = error.errno or 0
            detail, hint = os.strerror(number).lower(), hints.BY_ERROR.get(number, "")
            return Outcome(Verdict.TRY_LATER, detail, hint, fate_known=True)
        except ImportError as error:  # not there; or, of a shared object, one of those
            detail = f"Python's module {error.name} cannot be loaded"
            return Outcome(Verdict.TRY_LATER, detail, hints.LIBRARY, fate_known=True)
        except Exception as error:
            return self._unforeseen.outcome(error, fate_known=True)
        try:
            return self._client.post(body, key)
        except Exception as error:
            return self._unforeseen.outcome(error, fate_known=False)

    def _learn(self, size: int, outcome: Outcome, seconds: float) -> None:
        """Less at a time over a link that does not carry as much in the time there is, then more.

        Whoever could not even connect has learnt nothing about the link.
        """
        slow = seconds > SLOW * self._sink.timeout
        sent = outcome.answered or not outcome.fate_known
        if slow and sent and outcome.verdict is Verdict.TRY_LATER:
            self._carried = max(1, self._carried // 2)
        elif not slow and outcome.verdict is Verdict.DELIVERED and size >= self._carried:
            self._carried = min(2 * self._carried, self._sink.batch_size)


def _unsent(error: str) -> Outcome:
    """Nothing has left: of this batch as it is, nothing can be sent."""
    return Outcome(Verdict.UNSENT, error, fate_known=True)
