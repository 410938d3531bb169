"""SensorDataSQLRepository: everything that a process may do with the database.

Each method is one transaction, or one read. `now` is wall time in seconds. Methods raise
StorageUnavailable where the database cannot be used; then they have changed nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sensor_node.core.clock import Moment
from sensor_node.core.errors import StorageUnavailable
from sensor_node.core.model import Claim, Counts, Dropped, Message, Outcome, Readings, VitalSigns
from sensor_node.core.settlement import Rules
from sensor_node.storage.engine import checkpoint, filesystem, quarantine
from sensor_node.storage.engine.connection import Database
from sensor_node.storage.engine.write_lock import LockWatch, Unwatched
from sensor_node.storage.journal import events, log_hold, runs, samples
from sensor_node.storage.queue import (
    batch_ranges,
    capture,
    claiming,
    due,
    ledger,
    lookup,
    orphans,
    retention,
    settling,
    sink_row,
    suspects,
    vital_signs,
    waiting,
)
from sensor_node.storage.queue.rate_limit import ClaimPolicy
from sensor_node.storage.queue.room import SizeLimits, Space, is_tight, measure
from sensor_node.storage.repair import check, salvage

EVICT_CHUNK = 2000
MAKE_WAY_CHUNK = 5000


class SensorDataSQLRepository:
    """The queue in the database, for one process and thread; make it after the fork.

    `watch`: is told when this process waits for the write lock, and when it holds it. `power_safe`:
    commits survive power loss (synchronous=FULL). `replaces`: a damaged file is moved aside;
    StorageUnavailable("replaced") says that a fresh one takes its place.
    """

    def __init__(
        self,
        path: Path,
        watch: LockWatch | None = None,
        *,
        power_safe: bool = False,
        replaces: bool = False,
    ) -> None:
        # The WAL lies beside the file, not beside a link to it. All its names share one lock.
        self.path = filesystem.resolved(path)
        self._database = Database(
            self.path, watch or Unwatched(), full=power_safe, replaces=replaces
        )
        self._begun_on: int | None = None
        self._transaction = self._database.transaction
        self._read_transaction = self._database.read_transaction

    def close(self) -> None:
        self._database.close()

    def version(self) -> int:
        """A number that changes when another process has committed something."""
        return self._database.version()

    # Capture

    def capture(
        self,
        readings: Readings,
        dropped: Sequence[Dropped],
        now: float,
        room: SizeLimits,
        signs: Sequence[VitalSigns] = (),
        *,
        waiting: bool = False,
    ) -> int:
        """Store readings in order, the account of what was dropped, and the sensors' vital signs.

        The vital signs do not count these readings yet. Returns how many of the readings there was
        room for. `waiting`: the caller keeps the others until there is room. Then the account waits
        too: a successor would take it to cover the others, and not miss them if they were lost.
        Raises StorageUnavailable("replaced") if this run has not begun in the file that is open
        now: its readings must not get ids of a stream that another process may go on with.
        """
        with self._transaction() as connection:
            if self._begun_on != self._database.connects:
                raise StorageUnavailable("replaced", f"{self.path}: was opened anew")
            vital_signs.note(connection, signs)
            fitting = measure(connection, self.path, room).fitting(readings)
            if len(fitting) == len(readings) or not waiting:
                ledger.count_dropped(connection, dropped, now)
            capture.store(connection, fitting)
            return len(fitting)

    def begin_run(
        self, identity: runs.NodeIdentity, now: float, run: str, *, follows: bool = False
    ) -> int | None:
        """Note the start, the gap before it and what has changed; begin a stream of ids.

        `follows`: the caller has captured into another database in this place. Returns up to when
        all readings are accounted for, in microseconds since 1970, if an earlier generator has
        begun this `run`; else None.
        """
        with self._transaction() as connection:
            damaged = quarantine.files(self.path)[-1:]
            last_us = capture.begin(connection, identity, now, run, damaged, follows=follows)
        self._begun_on = self._database.connects
        return last_us

    def watch_sensors(self, silent_after: Mapping[str, float], at: float) -> None:
        """Begin to note the vital signs of these sensors, and forget those of others.

        `silent_after`: by name, how many seconds without a reading are too many. `at`:
        CLOCK_MONOTONIC seconds.
        """
        with self._transaction() as connection:
            vital_signs.watch(connection, silent_after, at)

    def end_run(self, now: float) -> None:
        """Note an orderly stop."""
        with self._transaction() as connection:
            runs.end(connection, now)

    def record_event(self, now: float, kind: str, detail: str, *, is_said: bool = False) -> None:
        """An event that no other method has recorded. `is_said`: the log has it already."""
        with self._transaction() as connection:
            events.record(connection, now, kind, detail, is_said=is_said)

    def check_for_damage(self, seconds: float = check.CHECK_SECONDS) -> None:
        """Look for damage for so many seconds at most. Raises StorageUnavailable("damaged")."""
        with self._read_transaction() as connection:
            check.check_for_damage(connection, seconds)

    def log_is_held(self, min_free: int) -> bool:
        """Whether a reader keeps the log from being emptied while the disk has no room for it.

        Then only what brings work in hand to an end may be written: see room.Space.tight.
        """
        with self._read_transaction() as connection:
            tight = is_tight(connection, self.path, min_free)
        return tight and not self.checkpoint(truncate=False).is_emptied

    # Delivery

    def backlog(self, now: float) -> claiming.Backlog:
        """What a sender must know to decide whether to claim, from one snapshot."""
        with self._read_transaction() as connection:
            return claiming.backlog(connection, now)

    def claim_fresh(self, owner: str, policy: ClaimPolicy, now: float, limit: int) -> Claim | None:
        """PENDING -> SENDING for up to `limit` of the oldest messages, while the sink is UP."""
        with self._transaction() as connection:
            sink = sink_row.read(connection)
            return claiming.claim_fresh(connection, sink, owner, policy, now, limit)

    def claim_due(self, owner: str, policy: ClaimPolicy, now: float, limit: int) -> Claim | None:
        """FAILED -> SENDING for up to `limit` messages of what is due first, while the sink is UP.

        Or for one message of an isolated sensor, if its probe is due.
        """
        with self._transaction() as connection:
            return claiming.claim_due(connection, owner, policy, now, limit)

    def claim_left_over(
        self, owner: str, policy: ClaimPolicy, now: float, limit: int
    ) -> Claim | None:
        """As claim_due(), but only what is left over: it has not failed for its own sake."""
        with self._transaction() as connection:
            return claiming.claim_left_over(connection, owner, policy, now, limit)

    def claim_probe(self, owner: str, policy: ClaimPolicy, now: float, limit: int) -> Claim | None:
        """PENDING or FAILED -> SENDING for a probe, mostly of one message, if the sink is DOWN."""
        with self._transaction() as connection:
            return claiming.claim_probe(connection, owner, policy, now, limit)

    def read_claim(self, claim: Claim) -> list[Message]:
        """The claim's messages in order; none if the claim is lost, fewer if rows are missing."""
        with self._read_transaction() as connection:
            return batch_ranges.read_messages(connection, claim)

    def settle(self, claim: Claim, outcome: Outcome, rules: Rules, now: float) -> bool:
        """SENDING -> what settlement() decides, and the sink's row with it.

        False, and nothing changed, if the claim was lost.
        """
        with self._transaction() as connection:
            return settling.settle(connection, claim, outcome, rules, now)

    def settle_and_claim(
        self,
        claim: Claim,
        outcome: Outcome,
        rules: Rules,
        policy: ClaimPolicy,
        now: float,
        limit: int,
    ) -> tuple[bool, Claim | None]:
        """settle(), then claim_fresh() if `limit` messages are PENDING and nothing is left over.

        Returns whether it was settled, and the next claim.
        """
        with self._transaction() as connection:
            if is_tight(connection, self.path, policy.min_free):
                return settling.settle(connection, claim, outcome, rules, now), None
            return settling.settle_and_claim(connection, claim, outcome, rules, policy, now, limit)

    # Retry

    def due_in(self, policy: ClaimPolicy, now: float) -> float:
        """Seconds until claim_due() will find a batch; infinite if none waits. Takes no lock."""
        skip, longest = policy.at_most_once, policy.longest
        with self._read_transaction() as connection:
            return min(
                due.due_in(connection, now, longest, skip_unknown=skip),
                suspects.due_in(connection, now, longest, skip_unknown=skip),
            )

    def claims(self) -> list[tuple[int, int, str]]:
        """First id, last id and owner of every batch that is SENDING."""
        with self._read_transaction() as connection:
            return orphans.sending(connection)

    def reclaim(self, first_id: int, owner: str, now: float, *, at_most_once: bool) -> int:
        """SENDING -> FAILED (at-most-once: IN_DOUBT) for a dead owner's claim. Returns how many."""
        status = "IN_DOUBT" if at_most_once else "FAILED"
        with self._transaction() as connection:
            n = orphans.reclaim(connection, first_id, owner, status, now)
            if n:
                events.record(connection, now, "reclaimed", f"from {owner.split(':')[0]}", n=n)
            return n

    def park_doubtful(self, now: float) -> int:
        """FAILED -> IN_DOUBT for a chunk of unknown fate, as at-most-once never sends it again.

        Returns how many messages.
        """
        with self._transaction() as connection:
            return orphans.park_doubtful(connection, now)

    def let_in(self, now: float) -> bool:
        """Let in a chunk of the readings of a sensor that is not isolated any more. False: none."""
        with self._read_transaction() as connection:
            if suspects.next_to_let_in(connection, now) is None:
                return False
        with self._transaction() as connection:
            return suspects.let_in(connection, now)

    def probe_now(self, now: float) -> None:
        """Make all probes due: something has changed that may have repaired the sink."""
        with self._transaction() as connection:
            waiting.probe_now(connection, now)

    def requeue(self, first_id: int, last_id: int, now: float) -> int:
        """DEAD, IN_DOUBT or SENT -> FAILED, due now, for ids of one range. Returns how many."""
        with self._transaction() as connection:
            n = batch_ranges.requeue(connection, first_id, last_id, now)
            if n:
                last = first_id + n - 1
                events.record(connection, now, "requeued", "", n=n, first=first_id, last=last)
            return n

    def salvage(
        self, salvaged: Sequence[salvage.Salvaged], source: str, policy: ClaimPolicy, now: float
    ) -> int | None:
        """Add those readings of another database whose ids are new here. Returns how many.

        None if this transaction only made way for them: call it again with the same.
        """
        size = policy.limit(policy.batch_size)
        with self._transaction() as connection:
            new = salvage.absent(connection, salvaged)
            if new and not salvage.make_way(connection, size, MAKE_WAY_CHUNK, now):
                return None
            if new:
                salvage.add(connection, new, source, size, now)
                vital_signs.pass_over(connection)
            return len(new)

    def next_parked(self, status: str, after: int) -> tuple[int, int] | None:
        """First and last id of the next DEAD or IN_DOUBT batch above the id `after`."""
        with self._read_transaction() as connection:
            return lookup.next_parked(connection, status, after)

    # Housekeeping

    def space(self, room: SizeLimits) -> Space:
        with self._read_transaction() as connection:
            return measure(connection, self.path, room)

    def wal_bytes(self) -> int:
        return checkpoint.wal_bytes(self.path)

    def checkpoint(self, *, truncate: bool) -> checkpoint.Log:
        """Move the WAL into the database file; `truncate` also gives its disk space back."""
        with self._database.guarded():
            connection, lock = self._database.connection, self._database.lock
            return checkpoint.checkpoint(connection, lock, truncate=truncate)

    def log_hold(self) -> log_hold.LogHold | None:
        """What the history says of the program that holds the log; None if no program does."""
        with self._read_transaction() as connection:
            return log_hold.standing(connection)

    def purge(self, after: int, settled_before: float | None, now: float) -> retention.Chunk:
        """SENT -> PURGED for a chunk above the id `after`, settled before then (None: any time)."""
        with self._read_transaction() as connection:
            chunk = retention.find_delivered(connection, after, settled_before, now)
        if chunk.batch_ranges:  # if there are none, do not take the lock from others
            with self._transaction() as connection:
                chunk = retention.purge(connection, after, settled_before, now)
        return chunk

    def evict_oldest(self, reason: str, now: float) -> int:
        """FAILED, else PENDING -> EVICTED for a chunk of the oldest. Returns how many."""
        with self._transaction() as connection:
            return retention.evict_oldest(connection, EVICT_CHUNK, reason, now)

    def evict_parked(self, reason: str, now: float) -> int:
        """DEAD or IN_DOUBT -> EVICTED for the oldest batch range. Returns how many."""
        with self._transaction() as connection:
            return retention.evict_parked(connection, reason, now)

    def evict_older_than(self, limit_us: int, now: float) -> int:
        """FAILED or PENDING -> EVICTED for a chunk captured before `limit_us`. Returns how many."""
        with self._transaction() as connection:
            return retention.evict_older_than(connection, EVICT_CHUNK, limit_us, now)

    def note_clock(self, now: Moment, boot: str) -> None:
        """Note the clock: nothing waits longer, or ages, as it was set. `boot`: the boot id."""
        with self._transaction() as connection:
            self._database.lock.allow_long()  # many batches may wait
            waiting.note_clock(connection, now, boot)

    def sample(self, boottime: float) -> None:
        """Note the counts for the rates that `status` shows, if they have changed."""
        with self._transaction() as connection:
            samples.add(connection, boottime, ledger.sound_counts(connection))

    def counts(self) -> Counts:
        """The counts of messages. Raises StorageUnavailable("damaged") if they do not add up."""
        with self._read_transaction() as connection:
            return ledger.sound_counts(connection)
