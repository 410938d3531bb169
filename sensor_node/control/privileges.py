"""Root's commands become the owner of the node's files before they touch them.

That user may be who was broken into. What lies in the node's directories is then no way to root:
links lead to nothing, and signals reach nobody, that the user could not reach by itself.
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
from sensor_node.system.environment import own
from sensor_node.system.files import real

# As the kernel follows.
MOST_LINKS = 40
NOBODY = 65534
ANSWER_SECONDS = 60.0

Result = TypeVar("Result")


def drop(*names: Path) -> None:
    """Become, for good, who may say where these names lead; nothing where only root may.

    Raises SensorNodeError where root may not become another user.
    """
    if os.geteuid():
        return
    for name in names:
        if owner := _owner(name):
            _become(owner.st_uid, owner.st_gid)
            return


def drop_to(user: str, groups: Iterable[str]) -> bool:
    """Become that user, a name or a number, for good, with these groups, too.

    Whether this process is that user's now. Root stays what it is where nobody knows the user.
    """
    try:
        known = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        return False
    if os.geteuid() == 0 and known.pw_uid:
        _become(known.pw_uid, known.pw_gid, *_numbers(groups))
    return os.geteuid() == known.pw_uid


def _numbers(groups: Iterable[str]) -> Iterator[int]:
    for group in groups:
        with contextlib.suppress(KeyError):
            yield int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid


def name_of(uid: int) -> str:
    """The user's; the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def of_file(file: Path) -> tuple[Path, ...]:
    """The way to a configuration, and the directories of its appliance."""
    return (way_to(file), *directories(Path(os.path.abspath(file))))


def way_to(file: Path) -> Path:
    """What leads to a configuration. Whose the file is says nothing: perhaps a person's."""
    return file if file.is_symlink() else file.absolute().parent


def leave_terminal() -> None:
    """Of a process that stays: who becomes the node's user could type for root there."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a session's leader is told so
    try:
        fcntl.ioctl(terminal, termios.TIOCNOTTY)
    finally:
        os.close(terminal)
        signal.signal(signal.SIGHUP, before)


def begin_anew() -> None:
    """As another program, if that cannot be heard by a terminal: one that has dropped root in its
    midst has root's environment in its memory, and the kernel keeps its files in /proc root's.
    """
    if not any(map(os.isatty, (0, 1, 2))):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own


def of_config(config: Config) -> tuple[Path, ...]:
    """The same, and where its database is."""
    path = config.storage.path
    return (*of_file(config.file), path.parent, real(path).parent)


def as_owner(names: tuple[Path, ...], do: Callable[[], Result]) -> Result:
    """What `do` returns, which JSON can tell, in a process that drops root first; ours keeps it.

    Raises what `do` raises, if that is a SensorNodeError.
    """
    if os.geteuid():
        return do()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _tell(writer, names, do)
    os.close(writer)
    answer = _hear(reader)
    os.kill(pid, signal.SIGKILL)  # whose user could make it stay
    os.waitpid(pid, 0)
    if not answer:
        raise SensorNodeError("a process of this command has ended without a word; try again")
    found = json.loads(answer)
    if "lines" in found:
        kind = ConfigError if found["config"] else SensorNodeError
        raise kind(*found["lines"])
    result: Result = found["result"]
    return result


def _hear(reader: int) -> bytes:
    """What comes until the end, or until it has taken too long."""
    answer, deadline = b"", time.monotonic() + ANSWER_SECONDS
    with os.fdopen(reader, "rb", 0) as told:
        while select.select([told], [], [], max(0.0, deadline - time.monotonic()))[0]:
            piece = told.read(65536)
            if not piece:
                return answer
            answer += piece
    return b""


def _tell(writer: int, names: tuple[Path, ...], do: Callable[[], Any]) -> None:
    """The child's whole life."""
    try:
        try:
            drop(*names)
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


def _owner(name: Path) -> os.stat_result | None:
    """The first but root who owns a part of the way there, or of the ways of the links on it."""
    parts, place, links = _parts(Path.cwd() / name), Path("/"), 0
    while parts:
        part = parts.pop()
        if part == "..":
            place = place.parent
            continue
        place /= part
        try:
            found = place.lstat()
            if found.st_uid:
                return found
            if stat.S_ISLNK(found.st_mode):
                links += 1
                target = place.readlink()
                place = Path("/") if target.is_absolute() else place.parent
                parts += _parts(target)
        except OSError:
            return None
        if links > MOST_LINKS:
            return None
    return None


def _parts(way: Path) -> list[str]:
    """The last first, without the root directory."""
    return [part for part in reversed(way.parts) if part != "/"]


def _become(uid: int, gid: int, *more: int) -> None:
    """`gid` is for a user whom nobody knows."""
    try:
        user = pwd.getpwuid(uid)
        name, group = user.pw_name, user.pw_gid
        groups = os.getgrouplist(name, group)
        home = user.pw_dir
    except KeyError:
        name, group, home = str(uid), gid or NOBODY, "/"
        groups = [group]
    try:
        os.setgroups([*groups, *more])
        os.setresgid(group, group, group)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise SensorNodeError(
            f"cannot become {name}, whose files these are ({error.strerror}); "
            "give the command as that user"
        ) from error
    kept = own(os.environ) | {"HOME": home, "USER": name, "LOGNAME": name}
    os.environ.clear()
    os.environ.update(kept)
    for place in (Path(sys.executable), Path(__file__)):
        if not os.access(place, os.R_OK):
            raise SensorNodeError(
                f"{place}: cannot be read by {name}, whose files these are; "
                "install sensor-node where everybody can read it"
            )
