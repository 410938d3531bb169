"""The values that the processes and the database speak of."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Reading(NamedTuple):
    """One captured value, not yet stored. A tuple: there may be 300,000 of them a second."""

    name: str
    value: float
    timestamp_us: int  # UTC, microseconds since 1970

    @property
    def captured_us(self) -> int:
        """What ages and the account go by."""
        return self.timestamp_us


class DatedReading(NamedTuple):
    """One whose source says of which time it is: `timestamp_us` may be any."""

    name: str
    value: float
    timestamp_us: int
    captured_us: int  # when this node captured it


class Message(NamedTuple):
    """A stored reading. `id` is local to this database; see `Stream.wire_id`."""

    id: int
    name: str
    value: float
    timestamp_us: int


class MessageStatus(enum.StrEnum):
    """Where a message is between the sensor and the sink, and who moves it on."""

    PENDING = "PENDING"  # stored; a sender will claim it
    SENDING = "SENDING"  # claimed by a process that is, or was, sending it
    FAILED = "FAILED"  # tried; the retrier will claim it when it is due
    SENT = "SENT"  # the sink has it
    DEAD = "DEAD"  # the sink refuses it; only a person's requeue moves it on
    IN_DOUBT = "IN_DOUBT"  # at-most-once only: nobody knows; a person decides


@dataclass(frozen=True, slots=True)
class Dropped:
    """Readings that could not be stored: how many, why, and from when to when (microseconds)."""

    reason: str
    count: int
    first_us: int
    last_us: int


class VitalSigns(NamedTuple):
    """How a sensor is, to be written with the readings' own transaction.

    `readings` (stored) and `failures` (ticks) are those since it was written last. `last_us` and
    `last_value` are of the last stored reading, None: no other than before. `heard_at`, `noted_at`:
    CLOCK_MONOTONIC seconds; when it last gave a reading in this run, and now. `failing`: its last
    attempt failed; `error` and `error_us` are the last failure's, however long ago. `unaccounted`:
    ticks that were due and are neither taken nor dropped nor waiting.
    """

    name: str
    noted_at: float
    readings: int = 0
    failures: int = 0
    last_us: int | None = None
    last_value: float | None = None
    heard_at: float | None = None
    error: str = ""
    error_us: int | None = None
    failing: bool = False
    silent: bool = False
    unaccounted: int = 0


@dataclass(frozen=True, slots=True)
class Stream:
    """A run of ids that share one globally unique name (24 hex digits) and one node id.

    `wire_first` is the number on the wire of the message `first_id`: the same number, but for
    readings that salvage has brought, which keep the one that they have in their own database.
    """

    first_id: int
    name: str
    wire_first: int
    node: str

    def number(self, message_id: int) -> int:
        """The message's number on the wire."""
        return message_id - self.first_id + self.wire_first

    def wire_id(self, message_id: int) -> str:
        """The id that the sink sees, the same for ever."""
        return f"{self.name}-{self.number(message_id)}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch that this process alone may send and settle: ids `first_id` to `last_id`.

    `attempt` counts the claims of this batch, this one included. `requeue_count`: how often a
    person has requeued it. `epoch` and `accepted_total` are the sink's at the time of the claim;
    `probe`: the sink was DOWN.
    """

    first_id: int
    last_id: int
    owner: str
    attempt: int
    requeue_count: int
    epoch: int
    accepted_total: int
    probe: bool
    stream: Stream

    @property
    def size(self) -> int:
        return self.last_id - self.first_id + 1


class Verdict(enum.StrEnum):
    """What an answer, or the lack of one, says. See the answer table in docs/architecture.md."""

    DELIVERED = "delivered"
    REFUSED = "refused"  # the sink objects to what is in the request
    TRY_LATER = "try later"  # the sink, or the way to it, is not well
    MISCONFIGURED = "misconfigured"  # a person must mend the sink or this node's configuration
    UNSENT = (
        "unsent"  # it cannot be sent as it is: too large, a row is missing, or no way to write it
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of sending a batch once.

    `answered`: a complete final answer was read. `fate_known`: it is certain whether the sink took
    the messages. `retry_after`: seconds, as the sink asked. `overloaded`: it wants fewer requests.
    `surplus`: it was found to send more than it is asked for. `detail` and `hint` are for people.
    """

    verdict: Verdict
    detail: str
    hint: str = ""
    answered: bool = False
    fate_known: bool = False
    retry_after: float | None = None
    overloaded: bool = False
    surplus: bool = False


class SinkStatus(enum.StrEnum):
    UP = "UP"
    DOWN = "DOWN"


@dataclass(frozen=True, slots=True)
class Counts:
    """The ledger: `captured` is always the sum of pending to evicted.

    `sent` includes `purged`; `dropped` were never captured.
    """

    captured: int
    pending: int
    in_flight: int
    failed: int
    sent: int
    dead: int
    in_doubt: int
    evicted: int
    dropped: int
    purged: int

    @property
    def add_up(self) -> bool:
        """P3, as far as the counts alone can tell."""
        waiting_or_parked = self.undelivered + self.dead + self.in_doubt
        return self.pending >= 0 and self.captured == waiting_or_parked + self.sent + self.evicted

    @property
    def undelivered(self) -> int:
        """Still to be sent: what an outage builds up and a good day drains."""
        return self.pending + self.in_flight + self.failed


Readings = Sequence[Reading | DatedReading]
