"""Shows the supervisor that each child lives: one slot a child, in an anonymous shared map.

The child writes its slot and the supervisor reads it; no child reads another's. There are no locks:
every processor stores an aligned word of 32 bits whole. The words are items of a memoryview; with
struct.pack_into() the supervisor could see a zero in between.
"""

import mmap
import time
from dataclasses import dataclass

from sensor_node.core.errors import STORAGE_REASONS

BEAT, WAITING, HOLDING, READY, TROUBLE, MESSAGE_LENGTH, FINAL, CHECKED, SINCE = range(9)
# Where the last message begins, after the words.
MESSAGE = 36
SLOT_BYTES = 1024
# Times are milliseconds of the monotonic clock modulo this, which is 50 days; 0: no time.
TIMES = 2**32


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a slot says. Times are monotonic seconds."""

    beat: float  # the last pass of its loop
    waiting_since: float | None  # for the write lock; None: it does not wait
    holding_since: float | None  # the write lock; None: it does not hold it
    ready: bool  # its service is open, or waits for the database
    checked: bool  # it has opened the database, and checked it if that was to be done
    trouble: str  # why it cannot use the database; empty: it can
    trouble_since: float  # wall seconds, for people; 0: no trouble
    message: str  # its last message


class Slot:
    """One child's words in the map. Implements LockWatch and Pulse for the child."""

    def __init__(self, memory: mmap.mmap, index: int) -> None:
        whole = memoryview(memory)[index * SLOT_BYTES : (index + 1) * SLOT_BYTES]
        self._words = whole[:MESSAGE].cast("I")
        self._message = whole[MESSAGE:]

    # In the child

    def beat(self) -> None:
        self._put(BEAT, _now())

    def waiting(self) -> None:
        self._put(WAITING, _now())
        self._put(HOLDING, 0)

    def holding(self) -> None:
        self._put(HOLDING, _now())
        self._put(WAITING, 0)

    def released(self) -> None:
        self._put(HOLDING, 0)
        self._put(WAITING, 0)

    def ready(self) -> None:
        self._put(READY, 1)

    def trouble(self, reason: str) -> None:
        trouble = STORAGE_REASONS.index(reason) + 1 if reason else 0
        if trouble != self._get(TROUBLE):
            self._put(SINCE, int(time.time()) % TIMES if trouble else 0)
            self._put(TROUBLE, trouble)

    def checked(self) -> None:
        """The database is open and has been checked for damage, if that was to be done."""
        self._put(CHECKED, 1)

    def is_final(self) -> bool:
        """Whether the whole appliance is being stopped, not this child replaced."""
        return bool(self._get(FINAL))

    def leave_message(self, text: str) -> None:
        """Leave a last message for the supervisor to log; it is cut if it is too long."""
        message = text.encode()[: SLOT_BYTES - MESSAGE]
        self._message[: len(message)] = message
        self._put(MESSAGE_LENGTH, len(message))

    # In the supervisor

    def reset(self) -> None:
        """Clear the slot before each start."""
        for word in (WAITING, HOLDING, READY, TROUBLE, MESSAGE_LENGTH, FINAL, CHECKED, SINCE):
            self._put(word, 0)
        self.beat()

    def make_final(self) -> None:
        """Tell the child, before it is asked to stop, that the whole appliance stops."""
        self._put(FINAL, 1)

    def forgive(self) -> None:
        """Measure all times from now, after the supervisor itself has slept too long."""
        now = _now()
        self._put(BEAT, now)
        for word in (WAITING, HOLDING):
            if self._get(word):
                self._put(word, now)

    def heartbeat(self) -> Heartbeat:
        message = bytes(self._message[: self._get(MESSAGE_LENGTH)])
        trouble = self._get(TROUBLE)
        return Heartbeat(
            beat=self._time(BEAT) or 0.0,
            waiting_since=self._time(WAITING),
            holding_since=self._time(HOLDING),
            ready=bool(self._get(READY)),
            checked=bool(self._get(CHECKED)),
            trouble=STORAGE_REASONS[trouble - 1] if trouble else "",
            trouble_since=float(self._get(SINCE)),
            message=message.decode(errors="replace"),
        )

    def _time(self, word: int) -> float | None:
        """Monotonic seconds, the nearest to now that the word can mean; None for 0."""
        value, now = self._get(word), time.monotonic_ns() // 1_000_000
        age = (now - value + TIMES // 2) % TIMES - TIMES // 2
        return (now - age) / 1000 if value else None

    def _put(self, word: int, value: int) -> None:
        self._words[word] = value

    def _get(self, word: int) -> int:
        return self._words[word]


def _now() -> int:
    return (time.monotonic_ns() // 1_000_000) % TIMES or 1


def make_slots(count: int) -> list[Slot]:
    """Slots in a map that children share by being forked."""
    memory = mmap.mmap(-1, count * SLOT_BYTES)
    return [Slot(memory, index) for index in range(count)]
