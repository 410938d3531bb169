"""The values that the processes and the database speak of."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Reading(NamedTuple):
    """One captured value, not yet stored. A tuple: there may be 300,000 of them a second."""

    name: str
    value: float
    timestamp_us: int  # UTC, microseconds since 1970: when this node captured it

    @property
    def captured_us(self) -> int:
        """The time by which its age is told."""
        return self.timestamp_us


class DatedReading(NamedTuple):
    """A reading whose source gives its time, which may be any."""

    name: str
    value: float
    timestamp_us: int  # UTC, microseconds since 1970: as the source says
    captured_us: int  # the same: when this node captured it


class Message(NamedTuple):
    """A stored reading."""

    id: int  # in this database; the sink sees Stream.wire_id()
    name: str
    value: float
    timestamp_us: int  # UTC, microseconds since 1970; the source's own if it gives one


class MessageStatus(enum.StrEnum):
    """Where a message is between the sensor and the sink, and who moves it on."""

    PENDING = "PENDING"  # stored; a sender will claim it
    SENDING = "SENDING"  # claimed by a process that is, or was, sending it
    FAILED = "FAILED"  # tried, or set apart; the retrier, or a sender, claims it when it is due
    SENT = "SENT"  # the sink has it
    DEAD = "DEAD"  # the sink refuses it; only a person's requeue moves it on
    IN_DOUBT = "IN_DOUBT"  # at-most-once only: nobody knows; a person decides


@dataclass(frozen=True, slots=True)
class Dropped:
    """Readings that could not be stored, and so are lost."""

    reason: str  # short and constant, fit to group by
    count: int
    first_us: int  # when the first of them was captured: UTC, microseconds since 1970
    last_us: int  # the same of the last


class VitalSigns(NamedTuple):
    """How a sensor is, to be written in the same transaction as its readings.

    Times `_us` are UTC, microseconds since 1970; times `_at` are CLOCK_MONOTONIC seconds.
    """

    name: str  # the sensor's
    noted_at: float  # now
    readings: int = 0  # stored since its signs were last written
    failures: int = 0  # ticks that failed since then
    last_us: int | None = None  # when the last stored reading was captured; None: none since then
    last_value: float | None = None  # of that reading
    heard_at: float | None = None  # when it last gave a reading; None: never in this run
    error: str = ""  # of its last failure, however long ago
    error_us: int | None = None  # when that was; None: it has not failed in this run
    failing: bool = False  # its last attempt failed
    silent: bool = False  # it has given no reading for longer than it may
    unaccounted: int = 0  # ticks that were due, and were neither taken nor dropped, nor wait


@dataclass(frozen=True, slots=True)
class Stream:
    """A run of message ids that go to the sink under one name."""

    first_id: int  # of its first message, in this database
    name: str  # unique in the world: 24 hex digits
    # The number of that message on the wire: `first_id`, but for readings that salvage brought.
    # They keep the number that they had in their own database.
    wire_first: int
    node: str  # the node id that the sink sees

    def number(self, message_id: int) -> int:
        """The message's number on the wire."""
        return message_id - self.first_id + self.wire_first

    def wire_id(self, message_id: int) -> str:
        """The id that the sink sees; it never changes."""
        return f"{self.name}-{self.number(message_id)}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch that one process alone may send and settle.

    Owner and attempt are the fence: the claim is lost once its row says otherwise.
    """

    first_id: int
    last_id: int  # included
    owner: str  # the owner id of the process that claimed it
    attempt: int  # how often it has been claimed, this time included
    requeue_count: int  # how often a person has requeued it
    epoch: int  # SinkRecord.epoch at the time of the claim
    accepted_total: int  # SinkRecord.accepted_total at the time of the claim
    probe: bool  # the sink was DOWN at the time of the claim
    stream: Stream  # that all of its messages belong to

    @property
    def size(self) -> int:
        """Messages."""
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
    """What came of trying once to send a batch."""

    verdict: Verdict
    detail: str  # what happened, for people: one line
    hint: str = ""  # what a person should do, if time alone does not repair it
    answered: bool = False  # a final status line was read
    fate_known: bool = False  # it is certain whether the sink took the messages
    retry_after: float | None = None  # how many seconds the sink wants to be left alone
    overloaded: bool = False  # the answer says that the sink is asked too often
    surplus: bool = False  # it was found just now that the sink sends more than it is asked for


class SinkStatus(enum.StrEnum):
    """Whether the sink accepts messages, as far as this node knows."""

    UP = "UP"  # senders may send
    DOWN = "DOWN"  # only the retrier tries, with probes


@dataclass(frozen=True, slots=True)
class Counts:
    """The ledger, in messages since the database was made.

    `captured` is always the sum of pending, in flight, failed, sent, dead, in doubt and evicted.
    """

    captured: int  # stored
    pending: int  # PENDING now
    in_flight: int  # SENDING now
    failed: int  # FAILED now
    sent: int  # SENT, purged ones included
    dead: int  # DEAD now
    in_doubt: int  # IN_DOUBT now
    evicted: int  # deleted although the sink had not accepted them: no room, or too old
    dropped: int  # readings that were never stored, so they are in no other count
    purged: int  # SENT, and deleted since

    @property
    def add_up(self) -> bool:
        """Whether every captured message is accounted for, as far as the counts alone can tell."""
        waiting_or_parked = self.undelivered + self.dead + self.in_doubt
        return self.pending >= 0 and self.captured == waiting_or_parked + self.sent + self.evicted

    @property
    def undelivered(self) -> int:
        """Still to be sent: what an outage builds up and a good day drains."""
        return self.pending + self.in_flight + self.failed


Readings = Sequence[Reading | DatedReading]
