"""A command's process group: killed with all its members, also by the next start after a crash."""

import contextlib
import hashlib
import os
import secrets
import signal
from pathlib import Path
from urllib.parse import quote

from sensor_node.system.environment import plain
from sensor_node.system.files import open_unlinked
from sensor_node.system.proc import START_TICKS, boot_id, stat_fields

# In the environment of all that a run starts, so that a later start knows it again.
TOKEN_VARIABLE = "SENSOR_NODE_COMMAND"  # noqa: S105 - a name, not a secret
LONGEST_QUOTED_NAME = 200
TOKEN_LENGTH = 32


class GroupRecord:
    """A small file for the next start: its name tells the token, its text the group's number.

    The number comes later, and not at all if this process is killed meanwhile or the disk is full;
    a name takes no room.
    """

    def __init__(self, directory: Path, name: str) -> None:
        name = _file_name(name)
        for old in directory.glob(f"command-{'?' * TOKEN_LENGTH}-{name}.pgid"):
            _end_old_group(old, old.name.split("-")[1])
        self._token = secrets.token_hex(TOKEN_LENGTH // 2)
        self._file = directory / f"command-{self._token}-{name}.pgid"

    def environment(self) -> dict[str, str]:
        """What the command needs of ours; it marks whatever inherits it as this record's."""
        return plain(os.environ) | {TOKEN_VARIABLE: self._token}

    def expect(self) -> None:
        """A group is about to begin."""
        self._write("")

    def note(self, pgid: int) -> None:
        """It has begun."""
        self._write(f"{boot_id()} {pgid} {_start_ticks(pgid)}")

    def clear(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        # Where there can be no file, the death signal still ends the leader.
        with contextlib.suppress(OSError), open_unlinked(self._file, "w") as record:
            record.write(text)


def _file_name(name: str) -> str:
    quoted = quote(name, safe="")
    if len(quoted) > LONGEST_QUOTED_NAME:
        quoted = hashlib.sha256(name.encode()).hexdigest()
    return quoted


def kill_group(pgid: int) -> None:
    """SIGKILL to all members; none left is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)


def _end_old_group(record: Path, token: str) -> None:
    """Kill the group that an earlier process had no time to, if the number is still that group's.

    Numbers pass to strangers, so either the leader is the very process that was noted, or a member
    has the token in its environment. Another user's record is not believed.
    """
    try:
        with open_unlinked(record, "rb") as opened:
            ours = os.fstat(opened.fileno()).st_uid == os.geteuid()
            noted = opened.read().decode(errors="replace")
    except OSError:
        return
    if ours:
        for pgid in _old_groups(noted, token):
            kill_group(pgid)
    with contextlib.suppress(OSError):
        record.unlink()


def _old_groups(noted: str, token: str) -> set[int]:
    marked = _groups_with(token)
    try:
        boot, number, ticks = noted.split()
        pgid = int(number)
    except ValueError:  # nothing was noted
        return marked
    is_leader = boot == boot_id() and _start_ticks(pgid) == ticks
    return {pgid} if is_leader or pgid in marked else set()


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
