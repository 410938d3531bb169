"""What the service must open, tried as the user of this process: the service's, it should be."""

import grp
import os
from collections.abc import Iterator
from pathlib import Path

from sensor_node.config.loader import Config
from sensor_node.control.privileges import name_of
from sensor_node.core.errors import ConfigError, SensorNodeError
from sensor_node.delivery.credentials import Credentials, tls_context
from sensor_node.storage.engine.header import insist_on_known_schema
from sensor_node.supervision.disk import insist_on_disk
from sensor_node.system.files import is_missing, real


def faults(config: Config) -> list[str]:
    """A line for each fault, with the command that mends it.

    Raises DatabaseUnusable for a database that only another version can open.
    """
    sources = dict.fromkeys((str(config.file), *(row.file for row in config.effective if row.file)))
    # Only the service sees the credentials that systemd gives it.
    secrets = [file for file in config.sink.secret_files if "${" not in file]
    existing = [file for file in secrets if not is_missing(Path(file))]
    lines = [line for file in (*sources, *existing) for line in _file_faults(config, Path(file))]
    lines += _database_faults(config)
    try:
        insist_on_disk(config)
    except SensorNodeError as error:
        lines.append(str(error))
    if not lines and len(existing) == len([file for file in config.sink.secret_files if file]):
        try:
            Credentials(config.sink).authorization()
            tls_context(config.sink)
        except ConfigError as error:
            lines += error.lines
    insist_on_known_schema(real(config.storage.path))
    return lines


def _file_faults(config: Config, file: Path) -> Iterator[str]:
    name, group = _user()
    if real(file) != file.absolute() and not os.access(file, os.R_OK):
        # Another user may have made the link: a chown or chmod here would give away its target.
        yield f"{file}: {name} cannot read where this leads; see its links, owners and modes"
        return
    for directory in reversed(real(file).parents):
        if not os.access(directory, os.X_OK):
            mended = f"install -g {group} -m 640 {file} {config.file.parent}, and name that one"
            yield f"{file}: {name} cannot enter {directory}: {mended}"
            return
    if not os.access(file, os.R_OK):
        yield f"{file}: {name} cannot read it: chgrp {group} {file} && chmod g+r {file}"


def _database_faults(config: Config) -> Iterator[str]:
    """Only of what exists: the rest is made at the start."""
    name, group = _user()
    database = config.storage.path
    for place in dict.fromkeys((config.state_directory, database.parent, database)):
        closed = [
            directory for directory in reversed(place.parents) if not os.access(directory, os.X_OK)
        ]
        if closed and closed[0].exists():
            yield f"{closed[0]}: {name} cannot enter it, on the way to {place}; see its mode"
            return
        is_linked = real(place) != place.absolute()
        wanted = os.R_OK | os.W_OK | (os.X_OK if place.is_dir() else 0)
        if not place.exists() or os.access(place, wanted):
            continue
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            yield f"{place}: is mounted read-only; mount it for writing"
        elif is_linked:
            yield f"{place}: {name} cannot write where this leads; see its links, owners and modes"
        else:
            yield f"{place}: {name} cannot write it: chown {name}:{group} {place}"
        return


def _user() -> tuple[str, str]:
    """The name of this process's user, and of its group; the number of a group without a name."""
    gid = os.getegid()
    try:
        return name_of(os.geteuid()), grp.getgrgid(gid).gr_name
    except KeyError:
        return name_of(os.geteuid()), str(gid)
