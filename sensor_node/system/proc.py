"""What /proc says of processes: their state, users and open files; and which boot this is."""

import contextlib
import errno
import os
from pathlib import Path

from sensor_node.core.errors import ConfigError

PROC = Path("/proc")
# Indexes in the list that stat_fields() returns. In proc(5) the state is field 3.
STATE, PARENT, START_TICKS = 0, 1, 19


def insist_on_pidfd() -> None:
    """Raise ConfigError if there is no pidfd_open(2): the node needs it to wait for processes."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            return
        raise ConfigError(
            f"the kernel ({os.uname().release}) has no pidfd_open, or a container's filter keeps it"
            f" from us ({error.strerror}); it needs Linux 5.3 or newer"
        ) from error


def boot_id(proc: Path = PROC) -> str:
    """Another one after each boot."""
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def stat_fields(pid: int, proc: Path = PROC) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none if there is no such process."""
    try:
        stat = (proc / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    # Before them is the name in parentheses, which may contain anything.
    return stat[stat.rindex(")") + 2 :].split()


def user_and_groups(pid: int, proc: Path = PROC) -> tuple[int, set[int]]:
    """The process's effective user id, and all of its group ids. Raises OSError if it is gone."""
    lines = (proc / str(pid) / "status").read_text(errors="replace").splitlines()
    fields = dict(line.partition(":\t")[::2] for line in lines)
    user, group = (int(fields[name].split()[1]) for name in ("Uid", "Gid"))
    return user, {group, *map(int, fields["Groups"].split())}


def has_open(pid: int, file: os.stat_result, proc: Path = PROC) -> bool:
    """Whether the process has the file open. Raises PermissionError if we may not look.

    That is so for a process of another user, or in a user namespace of its own.
    """
    denied = None
    try:
        for entry in (proc / str(pid) / "fd").iterdir():
            try:
                if os.path.samestat(file, entry.stat()):
                    return True
            except PermissionError as error:
                denied = error
            except OSError:
                continue  # closed meanwhile
    except PermissionError:
        raise
    except OSError:
        return False
    if denied:
        raise denied
    return False


def pids_with_open(file: os.stat_result, proc: Path = PROC) -> list[int]:
    """The processes that have the file open; those that we may not look at are left out."""
    pids = []
    for entry in proc.iterdir():
        with contextlib.suppress(PermissionError):
            if entry.name.isdecimal() and has_open(int(entry.name), file, proc):
                pids.append(int(entry.name))
    return pids
