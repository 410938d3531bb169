"""Root's commands become the owner of the node's files before they touch them.

An intruder may have become that user. Then what lies in the node's directories must not lead to
root: by a link or a signal, the command reaches nothing that this user could not reach itself.
"""

import contextlib
import fcntl
import grp
import json
import os
import pwd
import select
import signal
import stat
import sys
import termios
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sensor_node.config.loader import Config
from sensor_node.config.places import directories
from sensor_node.core.errors import ConfigError, SensorNodeError
from sensor_node.system.environment import for_program
from sensor_node.system.files import real

# As many as the kernel follows: path_resolution(7).
MOST_LINKS = 40
NOBODY = 65534
ANSWER_SECONDS = 60.0

Result = TypeVar("Result")


def drop(*paths: Path) -> None:
    """Become, for good, the first user but root who can change where one of these paths leads.

    Root stays root if only root can.

    Raises SensorNodeError where root may not become another user.
    """
    if os.geteuid():
        return
    for path in paths:
        if owner := _owner(path):
            _become(owner.st_uid, owner.st_gid)
            return


def drop_to(user: str, groups: Iterable[str]) -> bool:
    """Become this user, a name or a number, for good, with these groups beside the user's own.

    Returns whether this process runs as that user now. Root stays root if there is no such user.
    """
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        return False
    if os.geteuid() == 0 and entry.pw_uid:
        _become(entry.pw_uid, entry.pw_gid, *_numbers(groups))
    return os.geteuid() == entry.pw_uid


def _numbers(groups: Iterable[str]) -> Iterator[int]:
    for group in groups:
        with contextlib.suppress(KeyError):
            yield int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid


def name_of(uid: int) -> str:
    """The user's name; the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def of_file(file: Path) -> tuple[Path, ...]:
    """For drop(): what leads to a configuration, and the directories of its node."""
    return (way_to(file), *directories(Path(os.path.abspath(file))))


def way_to(file: Path) -> Path:
    """For drop(): what leads to a configuration.

    The file's own owner does not count: it may be a person, who edits it.
    """
    return file if file.is_symlink() else file.absolute().parent


def leave_terminal() -> None:
    """Give up the controlling terminal: the node's user could type commands there as root."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a session's leader gets it
    try:
        fcntl.ioctl(terminal, termios.TIOCNOTTY)
    finally:
        os.close(terminal)
        signal.signal(signal.SIGHUP, before)


def begin_anew() -> None:
    """Execute this program again, unless a standard stream is a terminal.

    After dropping root, this process still has root's environment in its memory, and the kernel
    leaves its files in /proc to root.
    """
    if not any(map(os.isatty, (0, 1, 2))):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own


def of_config(config: Config) -> tuple[Path, ...]:
    """For drop(): as of_file(), and the directory of the database."""
    path = config.storage.path
    return (*of_file(config.file), path.parent, real(path).parent)


def as_owner(paths: tuple[Path, ...], do: Callable[[], Result]) -> Result:
    """Call `do` in a child process that drops root first. This process stays root.

    Returns what `do` returns, which must be JSON. Raises the SensorNodeError that `do` raises.
    """
    if os.geteuid():
        return do()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _answer(writer, paths, do)
    os.close(writer)
    text = _receive(reader)
    os.kill(pid, signal.SIGKILL)  # it is the other user's, who could keep it from ending
    os.waitpid(pid, 0)
    if not text:
        raise SensorNodeError("a process of this command has ended without a word; try again")
    answer = json.loads(text)
    if "lines" in answer:
        kind = ConfigError if answer["config"] else SensorNodeError
        raise kind(*answer["lines"])
    result: Result = answer["result"]
    return result


def _receive(reader: int) -> bytes:
    """All that comes until the end; nothing if that takes too long."""
    received, deadline = b"", time.monotonic() + ANSWER_SECONDS
    with os.fdopen(reader, "rb", 0) as pipe:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            piece = pipe.read(65536)
            if not piece:
                return received
            received += piece
    return b""


def _answer(writer: int, paths: tuple[Path, ...], do: Callable[[], Any]) -> None:
    """All that the child does. It does not return."""
    try:
        try:
            drop(*paths)
            answer = {"result": do()}
        except ConfigError as error:
            answer = {"lines": error.lines, "config": True}
        except SensorNodeError as error:
            answer = {"lines": [str(error)], "config": False}
        with os.fdopen(writer, "w") as opened:
            opened.write(json.dumps(answer))
        os._exit(0)
    except BaseException:
        os._exit(1)


def _owner(path: Path) -> os.stat_result | None:
    """The first part of a path, or of a link's target on it, that does not belong to root."""
    parts, place, links = _parts(Path.cwd() / path), Path("/"), 0
    while parts:
        part = parts.pop()
        if part == "..":
            place = place.parent
            continue
        place /= part
        try:
            status = place.lstat()
            if status.st_uid:
                return status
            if stat.S_ISLNK(status.st_mode):
                links += 1
                target = place.readlink()
                place = Path("/") if target.is_absolute() else place.parent
                parts += _parts(target)
        except OSError:
            return None
        if links > MOST_LINKS:
            return None
    return None


def _parts(path: Path) -> list[str]:
    """The parts of a path, the last one first, without the root directory."""
    return [part for part in reversed(path.parts) if part != "/"]


def _become(uid: int, gid: int, *more_groups: int) -> None:
    """Become this user for good. `gid` is the group of a user that has no entry in passwd(5)."""
    try:
        user = pwd.getpwuid(uid)
        name, group = user.pw_name, user.pw_gid
        groups = os.getgrouplist(name, group)
        home = user.pw_dir
    except KeyError:
        name, group, home = str(uid), gid or NOBODY, "/"
        groups = [group]
    try:
        os.setgroups([*groups, *more_groups])
        os.setresgid(group, group, group)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise SensorNodeError(
            f"cannot become {name}, whose files these are ({error.strerror}); "
            "give the command as that user"
        ) from error
    environment = for_program(os.environ) | {"HOME": home, "USER": name, "LOGNAME": name}
    os.environ.clear()
    os.environ.update(environment)
    for place in (Path(sys.executable), Path(__file__)):
        if not os.access(place, os.R_OK):
            raise SensorNodeError(
                f"{place}: cannot be read by {name}, whose files these are; "
                "install sensor-node where everybody can read it"
            )
