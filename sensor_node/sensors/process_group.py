"""A command's process group: killed with all its members, after a crash by the next start."""

import contextlib
import hashlib
import os
import secrets
import signal
from pathlib import Path
from urllib.parse import quote

from sensor_node.system.environment import for_command
from sensor_node.system.files import open_unlinked
from sensor_node.system.proc import START_TICKS, boot_id, stat_fields

# In the environment of every process that a run starts: by it a later start recognises them.
TOKEN_VARIABLE = "SENSOR_NODE_COMMAND"  # noqa: S105 - a name, not a secret
LONGEST_QUOTED_NAME = 200
TOKEN_LENGTH = 32


class GroupRecord:
    """A small file for the next start: its name has the token, its text the group's number.

    The number is written once the group has begun. It is missing if this process is killed before
    that, or if the disk is full; the name alone needs no room on the disk.
    """

    def __init__(self, directory: Path, name: str) -> None:
        name = _file_name(name)
        for old in directory.glob(f"command-{'?' * TOKEN_LENGTH}-{name}.pgid"):
            _end_old_group(old, old.name.split("-")[1])
        self._token = secrets.token_hex(TOKEN_LENGTH // 2)
        self._file = directory / f"command-{self._token}-{name}.pgid"

    def environment(self) -> dict[str, str]:
        """The command's environment: ours, with the token, which its own processes inherit."""
        return for_command(os.environ) | {TOKEN_VARIABLE: self._token}

    def expect(self) -> None:
        """Record that a group is about to begin."""
        self._write("")

    def note(self, pgid: int) -> None:
        """Record the group that has begun."""
        self._write(f"{boot_id()} {pgid} {_start_ticks(pgid)}")

    def clear(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        # Without a file, the death signal still ends the leader.
        with contextlib.suppress(OSError), open_unlinked(self._file, "w") as record:
            record.write(text)


def _file_name(name: str) -> str:
    quoted = quote(name, safe="")
    if len(quoted) > LONGEST_QUOTED_NAME:
        quoted = hashlib.sha256(name.encode()).hexdigest()
    return quoted


def kill_group(pgid: int) -> None:
    """SIGKILL to all members; it is no error if there are none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)


def _end_old_group(record: Path, token: str) -> None:
    """Kill the group that an earlier process left behind, if it is still the same group.

    The kernel gives numbers to new groups again. So the leader must be the very process that was
    recorded, or a member must have the token in its environment. Another user's record is ignored.
    """
    try:
        with open_unlinked(record, "rb") as opened:
            ours = os.fstat(opened.fileno()).st_uid == os.geteuid()
            text = opened.read().decode(errors="replace")
    except OSError:
        return
    if ours:
        for pgid in _old_groups(text, token):
            kill_group(pgid)
    with contextlib.suppress(OSError):
        record.unlink()


def _old_groups(text: str, token: str) -> set[int]:
    """The numbers of the groups that the record means and that still are."""
    marked = _groups_with(token)
    try:
        boot, number, ticks = text.split()
        pgid = int(number)
    except ValueError:  # the number was not written
        return marked
    is_leader = boot == boot_id() and _start_ticks(pgid) == ticks
    return {pgid} if is_leader or pgid in marked else set()


def _groups_with(token: str) -> set[int]:
    """The groups of all processes that have the token in their environment."""
    variable, groups = f"{TOKEN_VARIABLE}={token}".encode(), set()
    for process in Path("/proc").glob("[0-9]*"):
        # The process may have ended, or be another user's.
        with contextlib.suppress(OSError):
            if variable in _environment(process):
                groups.add(os.getpgid(int(process.name)))
    return groups


def _environment(process: Path) -> list[bytes]:
    return (process / "environ").read_bytes().split(b"\0")


def _start_ticks(pid: int) -> str | None:
    """When a process, or a zombie, started, in clock ticks since boot; None: there is none."""
    try:
        fields = stat_fields(pid)
    except OSError:
        return None
    return fields[START_TICKS] if fields else None
