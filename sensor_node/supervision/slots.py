"""Where each child shows its supervisor that it lives: a slot in an anonymous shared map.

Written without locks, as aligned 8-byte words; read by the supervisor alone. It serves supervision
only: no child reads another's slot. The words are items of a memoryview, which are stored whole;
struct.pack_into() would let the supervisor see a zero in between.
"""

import mmap
import time
from dataclasses import dataclass

from sensor_node.errors import STORAGE_REASONS

BEAT, WAITING, HOLDING, READY, TROUBLE, SAID_LENGTH, FINAL, CHECKED, SINCE = range(9)
SAID = 72
SLOT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Signs:
    """What a slot says; times in monotonic seconds, None for: not so.

    `trouble_since` in wall seconds, for people; 0 if there is none.
    """

    beat: float
    waiting_since: float | None
    holding_since: float | None
    ready: bool
    checked: bool
    trouble: str
    trouble_since: float
    said: str


class Slot:
    """One child's words in the map. Implements LockWatch and Pulse for the child."""

    def __init__(self, memory: mmap.mmap, index: int) -> None:
        whole = memoryview(memory)[index * SLOT_BYTES : (index + 1) * SLOT_BYTES]
        self._words = whole[:SAID].cast("q")
        self._said = whole[SAID:]

    # In the child

    def beat(self) -> None:
        self._put(BEAT, time.monotonic_ns())

    def waiting(self) -> None:
        self._put(WAITING, time.monotonic_ns())
        self._put(HOLDING, 0)

    def holding(self) -> None:
        self._put(HOLDING, time.monotonic_ns())
        self._put(WAITING, 0)

    def released(self) -> None:
        self._put(HOLDING, 0)
        self._put(WAITING, 0)

    def ready(self) -> None:
        self._put(READY, 1)

    def trouble(self, reason: str) -> None:
        trouble = STORAGE_REASONS.index(reason) + 1 if reason else 0
        if trouble != self._get(TROUBLE):
            self._put(SINCE, time.time_ns() if trouble else 0)
            self._put(TROUBLE, trouble)

    def checked(self) -> None:
        """The database is open and has been looked at, if that was to be done."""
        self._put(CHECKED, 1)

    def is_final(self) -> bool:
        """Whether the whole appliance is being stopped, not this child replaced."""
        return bool(self._get(FINAL))

    def say(self, text: str) -> None:
        """Last words, for the supervisor to pass on."""
        words = text.encode()[: SLOT_BYTES - SAID]
        self._said[: len(words)] = words
        self._put(SAID_LENGTH, len(words))

    # In the supervisor

    def reset(self) -> None:
        """Before each start, and after the supervisor itself has slept too long."""
        for word in (WAITING, HOLDING, READY, TROUBLE, SAID_LENGTH, FINAL, CHECKED, SINCE):
            self._put(word, 0)
        self.beat()

    def make_final(self) -> None:
        """Before the stop that has no start after it."""
        self._put(FINAL, 1)

    def forgive(self) -> None:
        """Start all measures of time anew."""
        now = time.monotonic_ns()
        self._put(BEAT, now)
        for word in (WAITING, HOLDING):
            if self._get(word):
                self._put(word, now)

    def signs(self) -> Signs:
        said = bytes(self._said[: self._get(SAID_LENGTH)])
        trouble = self._get(TROUBLE)
        return Signs(
            beat=self._get(BEAT) / 1e9,
            waiting_since=self._get(WAITING) / 1e9 or None,
            holding_since=self._get(HOLDING) / 1e9 or None,
            ready=bool(self._get(READY)),
            checked=bool(self._get(CHECKED)),
            trouble=STORAGE_REASONS[trouble - 1] if trouble else "",
            trouble_since=self._get(SINCE) / 1e9,
            said=said.decode(errors="replace"),
        )

    def _put(self, word: int, value: int) -> None:
        self._words[word] = value

    def _get(self, word: int) -> int:
        return self._words[word]


def make_slots(count: int) -> list[Slot]:
    """Slots in a map that children share by being forked."""
    memory = mmap.mmap(-1, count * SLOT_BYTES)
    return [Slot(memory, index) for index in range(count)]
