"""Root's commands become the owner of the node's files before they touch them.

That user may be who was broken into. What lies in the node's directories is then no way to root:
links lead to nothing, and signals reach nobody, that the user could not reach by itself.
"""

import json
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sensor_node.config import Config
from sensor_node.errors import ConfigError, SensorNodeError
from sensor_node.places import directories, real

Result = TypeVar("Result")


def drop(*names: Path) -> None:
    """Become, for good, who may say where these names lead; nothing where only root may.

    Raises SensorNodeError where root may not become another user.
    """
    if os.geteuid():
        return
    for name in names:
        if owner := _owner(name):
            _become(owner)
            return


def of_file(file: Path) -> tuple[Path, ...]:
    """A configuration, and the directories of its appliance."""
    file = Path(os.path.abspath(file))
    return (file, *directories(file))


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
    with os.fdopen(reader, "rb") as told:
        answer = told.read()
    os.waitpid(pid, 0)
    if not answer:
        raise SensorNodeError("a process of this command has ended without a word; try again")
    found = json.loads(answer)
    if "lines" in found:
        kind = ConfigError if found["config"] else SensorNodeError
        raise kind(*found["lines"])
    result: Result = found["result"]
    return result


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
    """The first but root who owns a part of the way there, by its links or by where they lead."""
    for way in (os.path.abspath(name), os.path.realpath(name)):
        for part in (*reversed(Path(way).parents), Path(way)):
            try:
                found = part.lstat()
            except OSError:
                break
            if found.st_uid:
                return found
    return None


def _become(owner: os.stat_result) -> None:
    try:
        user = pwd.getpwuid(owner.st_uid)
        name, group = user.pw_name, user.pw_gid
        groups = os.getgrouplist(name, group)
        os.environ["HOME"] = user.pw_dir
    except KeyError:
        name, group = str(owner.st_uid), owner.st_gid
        groups = [group]
    try:
        os.setgroups(groups)
        os.setresgid(group, group, group)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
    except OSError as error:
        raise SensorNodeError(
            f"cannot become {name}, whose files these are ({error.strerror}); "
            "give the command as that user"
        ) from error
    for place in (Path(sys.executable), Path(__file__)):
        if not os.access(place, os.R_OK):
            raise SensorNodeError(
                f"{place}: cannot be read by {name}, whose files these are; "
                "install sensor-node where everybody can read it"
            )
