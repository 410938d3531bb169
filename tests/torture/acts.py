"""How each kind of action is done to the victim."""

import errno
import os
import signal
from collections.abc import Callable

from . import fuzz
from .plan import MOODS, Action
from .victim import Victim

LOCK_DATABASE = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=2, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""
HOLD_WRITE_LOCK = """
import fcntl, sys, time
with open(sys.argv[1] + ".writer", "r+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    time.sleep(float(sys.argv[2]))
"""


def do(victim: Victim, action: Action) -> None:
    ACTS[action.kind](victim, action)


def _kill(victim: Victim, action: Action) -> None:
    if pid := victim.alive().get(action.what):
        victim.kill(action.what, pid)


def _kill_all(victim: Victim, action: Action) -> None:
    alive = victim.alive()
    names = {pid: name for name, pid in alive.items()}
    for pid in victim.node.processes():
        victim.kill(names.get(pid, "others"), pid)


def _stop(victim: Victim, action: Action) -> None:
    """SIGSTOP, and SIGCONT later, if it has survived that."""
    pid = victim.alive().get(action.what)
    if pid is not None:
        victim.send(pid, signal.SIGSTOP)
        victim.fault(f"stop {pid}", action.seconds, lambda: victim.send(pid, signal.SIGCONT))


def _mood(victim: Victim, action: Action) -> None:
    victim.sink.behave(MOODS[action.what])
    victim.sink.release()


def _sink_killed(victim: Victim, action: Action) -> None:
    if not _sink_suffers(victim):
        victim.sink.kill()
        victim.fault("sink killed", action.seconds, victim.sink.start)


def _sink_paused(victim: Victim, action: Action) -> None:
    if not _sink_suffers(victim):
        victim.sink.pause()
        victim.fault("sink paused", action.seconds, victim.sink.resume)


def _sink_suffers(victim: Victim) -> bool:
    return victim.suffers("sink killed") or victim.suffers("sink paused")


def _reload(victim: Victim, action: Action) -> None:
    settings: dict[str, object] = dict(part.split("=") for part in action.what.split())
    senders = settings.pop("senders")
    victim.node.configure(sink=settings, process={"senders": senders})
    victim.ctl("reload")


def _bad_reload(victim: Victim, action: Action) -> None:
    """A reload must change nothing, and a start fail, until the file is mended."""
    if victim.suffers("bad reload"):
        return
    good = victim.node.file.read_text()
    victim.node.write(good.replace("batch_size = ", "batch_size = many "))
    victim.ctl("reload")
    victim.fault("bad reload", action.seconds, lambda: victim.node.write(good))


def _restart(victim: Victim, action: Action) -> None:
    victim.ctl("restart")


def _database_locked(victim: Victim, action: Action) -> None:
    if not victim.suffers(action.kind):
        victim.hold(LOCK_DATABASE, action.seconds, action.kind)


def _write_lock_held(victim: Victim, action: Action) -> None:
    if not victim.suffers(action.kind):
        victim.hold(HOLD_WRITE_LOCK, action.seconds, action.kind)


def _disk_full(victim: Victim, action: Action) -> None:
    if victim.disk is None or victim.suffers(action.kind):
        return
    if not victim.remember():
        return  # what it costs now would be missing from the account
    ballast = victim.disk / "ballast"
    with ballast.open("wb") as file:
        size = 1 << 30
        while size >= 1024:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
    victim.fault(action.kind, action.seconds, ballast.unlink)


def _requeue(victim: Victim, action: Action) -> None:
    if action.what == "--in-doubt" and victim.name == "at-most-once":
        return  # a person decides that it may be stored twice; here nothing must be
    victim.ctl("requeue", action.what)


def _look(victim: Victim, action: Action) -> None:
    victim.ctl(*action.what.split())


def _fuzz(victim: Victim, action: Action) -> None:
    what, seed = action.what.split()
    try:
        fuzz.run(what, int(seed))
    except Exception as error:
        victim.complaints.append(f"fuzz {action.what}: {type(error).__name__}: {error}")


def _breathe(victim: Victim, action: Action) -> None:
    """Nothing, for a longer while."""


ACTS: dict[str, Callable[[Victim, Action], None]] = {
    "kill": _kill,
    "kill all": _kill_all,
    "stop": _stop,
    "mood": _mood,
    "sink killed": _sink_killed,
    "sink paused": _sink_paused,
    "reload": _reload,
    "bad reload": _bad_reload,
    "restart": _restart,
    "database locked": _database_locked,
    "write lock held": _write_lock_held,
    "disk full": _disk_full,
    "requeue": _requeue,
    "look": _look,
    "fuzz": _fuzz,
    "breathe": _breathe,
}
