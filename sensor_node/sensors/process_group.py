"""A command's process group: killed with all its members, also by the next start after a crash."""

import contextlib
import hashlib
import os
import secrets
import signal
from pathlib import Path
from urllib.parse import quote

from sensor_node.places import open_unlinked
from sensor_node.proc import START_TICKS, boot_id, stat_fields

# In the environment of all that a run starts, so that a later start knows it again.
TOKEN_VARIABLE = "SENSOR_NODE_COMMAND"  # noqa: S105 - a name, not a secret
LONGEST_QUOTED_NAME = 200


class GroupRecord:
    """A small file that names the group that runs, for the next start.

    First by the token alone: this process may be killed when the group has begun and its number is
    not yet written down.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._file = directory / _record_name(name)
        self._token = secrets.token_hex(16)
        _end_old_group(self._file)

    def environment(self) -> dict[str, str]:
        """Marks whatever inherits it as this record's."""
        return {**os.environ, TOKEN_VARIABLE: self._token}

    def expect(self) -> None:
        """A group is about to begin."""
        self._write("w", f"{boot_id()} {self._token}")

    def note(self, pgid: int) -> None:
        """It has begun."""
        self._write("a", f" {pgid} {_start_ticks(pgid)}")

    def clear(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _write(self, mode: str, words: str) -> None:
        # Where it cannot be written, the death signal still ends the leader.
        with contextlib.suppress(OSError), open_unlinked(self._file, mode) as record:
            record.write(words)


def _record_name(name: str) -> str:
    quoted = quote(name, safe="")
    if len(quoted) > LONGEST_QUOTED_NAME:
        quoted = hashlib.sha256(name.encode()).hexdigest()
    return f"command-{quoted}.pgid"


def kill_group(pgid: int) -> None:
    """SIGKILL to all members; none left is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)


def _end_old_group(record: Path) -> None:
    """Kill the group that an earlier process had no time to, if the number is still that group's.

    Numbers pass to strangers, so either the leader is the very process that was noted, or a member
    has the token in its environment. Another user's record is not believed.
    """
    try:
        with open_unlinked(record) as opened:
            ours = os.fstat(opened.fileno()).st_uid == os.geteuid()
            boot, token, *noted = opened.read().split()
        pgids = {int(pgid): ticks for pgid, ticks in zip(noted[::2], noted[1::2], strict=True)}
        same_boot = boot == boot_id()
    except (OSError, ValueError):
        return
    if ours and same_boot:
        marked = _groups_with(token)
        for pgid in pgids or marked:
            if pgid in marked or _start_ticks(pgid) == pgids[pgid]:
                kill_group(pgid)
    with contextlib.suppress(OSError):
        record.unlink()


def _groups_with(token: str) -> set[int]:
    """The groups of all processes that have the token in their environment."""
    variable, found = f"{TOKEN_VARIABLE}={token}".encode(), set()
    for process in Path("/proc").glob("[0-9]*"):
        # It may be gone meanwhile, or another user's.
        with contextlib.suppress(OSError):
            if variable in _environment(process):
                found.add(os.getpgid(int(process.name)))
    return found


def _environment(process: Path) -> list[bytes]:
    return (process / "environ").read_bytes().split(b"\0")


def _start_ticks(pid: int) -> str | None:
    """When it started, in clock ticks since boot, also of a zombie; None: no such process."""
    try:
        fields = stat_fields(pid)
    except OSError:
        return None
    return fields[START_TICKS] if fields else None
