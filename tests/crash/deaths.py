"""Which processes of a node died without the test having asked for it, by the node's own log."""

import re
from collections.abc import Iterable

# As in "2026-01-31 12:00:00,123 ERROR 4711 crashed role=sender ..."
LINE = re.compile(
    r"\S+ \S+ [A-Z]+ (?P<pid>\d+) (?P<event>\w+)(?: (?:name=)?(?P<name>\S+))?(?P<rest>.*)"
)
DEATHS = ("process_died", "process_aborted", "process_killed", "crashed")


def unasked_deaths(log: str, victims: Iterable[int], may_die: Iterable[str] = ()) -> list[str]:
    """The log's lines about a death that is neither one of `victims` nor in a place of `may_die`.

    `victims` are pids. `may_die` are names of places, such as "sender-1".
    """
    victims, may_die = set(victims), set(may_die)
    pids: dict[str, int] = {}
    names: dict[int, str] = {}
    unasked = []
    for line in log.splitlines():
        match = LINE.fullmatch(line)
        if match is None:
            continue
        event, name = match["event"], match["name"]
        if event == "process_started":
            pids[name] = int(match["rest"].rpartition("=")[2])
            names[pids[name]] = name
        elif event in DEATHS:
            pid = int(match["pid"]) if event == "crashed" else pids.get(name, 0)
            if pid not in victims and names.get(pid, name) not in may_die:
                unasked.append(line)
    return unasked
