"""What is done to a node, and when: choices that follow from the seed alone."""

import random
from collections.abc import Iterator
from typing import NamedTuple

from sinks import (
    PORTAL,
    Behaviour,
    answer,
    captive_portal,
    close,
    delay,
    hang,
    ok,
    raw,
    refuse,
    reset,
    reset_unread,
    unfinished,
)

ROLES = ("generator", "sender-1", "sender-2", "retrier", "housekeeper", "supervisor")
# A reading of this sensor is refused by some moods.
ODD = "odd"
BUSIEST = "temperature"
SOON, LATER = "Mon, 23 Nov 2026 07:44:38 GMT", "Mon, 23 Nov 2026 07:44:40 GMT"
# Those that a sink may show to a node that never repeats: none says that it has not taken what it
# has stored.
MOODS: dict[str, Behaviour] = {
    "well": ok(),
    "204": answer(204),
    "slow": delay(0.3),
    "too slow": delay(5.0, store="after"),
    "hangs, stored": hang(store="before"),
    "hangs, stored later": hang(store="after"),
    "hangs, not stored": hang(store="no"),
    "reset, stored": reset(stored=True),
    "reset, not stored": reset(stored=False),
    "reset unread": reset_unread(),
    "closes, stored": close(stored=True),
    "closes, not stored": close(stored=False),
    "half an answer, stored": unfinished(stored=True),
    "half a 503, not stored": unfinished(503, stored=False),
    "drips": Behaviour(trickle=0.2),
    "garbage, stored": raw("\x00\xffSSH-2.0-none\r\n\r\n"),
    "garbage, not stored": raw("HTTP/9.9 nonsense\r\nX\r\n\r\n", stored=False),
    "stray 102": raw("HTTP/1.1 102 Processing\r\n\r\n", stored=False),
    "empty status line": raw("HTTP/1.1  \r\n\r\n", stored=False),
    "captive portal": captive_portal(),
    "portal on 503": answer(503, PORTAL, stored=False),
    "301": answer(301, Location="http://127.0.0.1:9/"),
    "400 to all": answer(400, "no \x1b[31mthanks\n"),
    "400 to one sensor": refuse(name=ODD),
    "413 over 7": refuse(more_than=7, status=413),
    "422 to one sensor": refuse(name=ODD, status=422),
    "500 to one sensor": refuse(name=ODD, status=500),
    "403 to one sensor": refuse(name=ODD, status=403),
    "503 to one sensor": refuse(name=ODD, status=503),
    "reset to one sensor": refuse(name=ODD, how="reset"),
    "silence to one sensor": refuse(name=ODD, how="hang"),
    "500 to the busiest": refuse(name=BUSIEST, status=500),
    "silence to the busiest": refuse(name=BUSIEST, how="hang"),
    "401": answer(401),
    "404": answer(404),
    "409": answer(409),
    "429": answer(429),
    "429 in 1 s": answer(429, Retry_After="1"),
    "429 in -5 s": answer(429, Retry_After="-5"),
    "500": answer(500),
    "500, stored": answer(500, stored=True),
    "502, stored": answer(502, stored=True),
    "503 on a date": answer(503, Retry_After=LATER, Date=SOON),
    "503 in nonsense": answer(503, Retry_After="soon"),
    "503 in a year": answer(503, Retry_After="31536000"),
    "507": answer(507),
}
# What `reload` changes; None stands for nothing.
SETTINGS: dict[str, tuple[object, ...]] = {
    "batch_size": (1, 7, 50, 50, 500),
    "format": ("json", "json-lines"),
    "compression": ("none", "gzip"),
    "send_interval": ("0s", "0s", "300ms", "2s"),
    "max_rate": (0, 0, 0, 400),
    "senders": (1, 2, 2, 3),
}
# How often each kind comes, and for how long its fault lasts, in seconds.
KINDS: dict[str, tuple[int, float, float]] = {
    "kill": (36, 0.0, 0.0),
    "kill all": (12, 0.0, 0.0),
    "stop": (10, 0.1, 9.0),
    "mood": (24, 0.0, 0.0),
    "sink killed": (2, 0.1, 4.0),
    "sink paused": (2, 0.1, 4.0),
    "reload": (4, 0.0, 0.0),
    "bad reload": (1, 0.5, 2.0),
    "restart": (1, 0.0, 0.0),
    "database locked": (2, 0.3, 8.0),
    "write lock held": (2, 0.3, 8.0),
    "disk full": (2, 0.3, 5.0),
    "requeue": (2, 0.0, 0.0),
    "look": (3, 0.0, 0.0),
    "fuzz": (6, 0.0, 0.0),
    "breathe": (2, 0.0, 0.0),
}
PAUSE_SECONDS = (0.05, 0.6)
BREATH_SECONDS = (3.0, 6.0)
COMMANDS = ("status", "status --json", "audit", "history", "messages --limit 20", "check")
FUZZES = ("config", "retry-after", "answer", "command")


class Action(NamedTuple):
    """`what` is the role, mood or command; the fault lasts `seconds`, the next comes in `pause`."""

    kind: str
    what: str
    seconds: float
    pause: float

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind} {self.what}".rstrip() + lasts


def actions(seed: str) -> Iterator[Action]:
    """Without end."""
    dice = random.Random(seed)
    kinds, weights = list(KINDS), [weight for weight, _, _ in KINDS.values()]
    while True:
        (kind,) = dice.choices(kinds, weights)
        _, least, most = KINDS[kind]
        span = BREATH_SECONDS if kind == "breathe" else PAUSE_SECONDS
        yield Action(kind, _what(kind, dice), dice.uniform(least, most), dice.uniform(*span))


def _what(kind: str, dice: random.Random) -> str:
    if kind in ("kill", "stop"):
        return dice.choice(ROLES)
    if kind == "mood":
        # Every other time it is well, or nothing would ever be delivered.
        return dice.choice(("well", dice.choice(list(MOODS))))
    if kind == "reload":
        return " ".join(f"{name}={dice.choice(values)}" for name, values in SETTINGS.items())
    if kind == "requeue":
        return dice.choice(("--dead", "--in-doubt"))
    if kind == "look":
        return dice.choice(COMMANDS)
    if kind == "fuzz":
        return f"{dice.choice(FUZZES)} {dice.randrange(2**32)}"
    return ""
