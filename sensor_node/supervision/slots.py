"""Where each child shows its supervisor that it lives: a slot in an anonymous shared map.

Written without locks, as aligned words of 32 bits, which every processor stores whole; read by the
supervisor alone. It serves supervision only: no child reads another's slot. The words are items of
a memoryview; struct.pack_into() would let the supervisor see a zero in between.
"""

import mmap
import time
from dataclasses import dataclass

from sensor_node.core.errors import STORAGE_REASONS

BEAT, WAITING, HOLDING, READY, TROUBLE, SAID_LENGTH, FINAL, CHECKED, SINCE = range(9)
SAID = 36
SLOT_BYTES = 1024
# Times are milliseconds of the monotonic clock, which begin anew each 50 days; 0 is none.
TIMES = 2**32


@dataclass(frozen=True, slots=True)
class Heartbeat:
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
        self._words = whole[:SAID].cast("I")
        self._said = whole[SAID:]

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
        now = _now()
        self._put(BEAT, now)
        for word in (WAITING, HOLDING):
            if self._get(word):
                self._put(word, now)

    def heartbeat(self) -> Heartbeat:
        said = bytes(self._said[: self._get(SAID_LENGTH)])
        trouble = self._get(TROUBLE)
        return Heartbeat(
            beat=self._time(BEAT) or 0.0,
            waiting_since=self._time(WAITING),
            holding_since=self._time(HOLDING),
            ready=bool(self._get(READY)),
            checked=bool(self._get(CHECKED)),
            trouble=STORAGE_REASONS[trouble - 1] if trouble else "",
            trouble_since=float(self._get(SINCE)),
            said=said.decode(errors="replace"),
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
