"""salvage: bring the undelivered readings of an old or damaged database back into the queue."""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sensor_node.config.loader import Config
from sensor_node.control import exits
from sensor_node.control.requeue import open_for_writing
from sensor_node.control.times import counted
from sensor_node.core.errors import SensorNodeError
from sensor_node.delivery.batch_sender import policy_of
from sensor_node.storage.engine.checkpoint import WAL_LIMIT_BYTES
from sensor_node.storage.engine.write_lock import writer_file
from sensor_node.storage.queue.room import SizeLimits
from sensor_node.storage.repair import replace_header
from sensor_node.storage.repair.damaged_file import IDS_A_CHUNK, DamagedFile, Unreadable
from sensor_node.storage.repository import SensorDataSQLRepository
from sensor_node.supervision.file_lock import holder
from sensor_node.supervision.pidfile import LOCK_SUFFIX
from sensor_node.system import locks
from sensor_node.system.files import open_unlinked, real

# Per reading: a row with a long name, its batch range, and pages that are not full.
CHUNK_BYTES = IDS_A_CHUNK * 256


def salvage(config: Config, file: Path) -> int:
    """Bring the undelivered readings of `file` into the queue, under the ids that they have there.

    Raises SensorNodeError where not all come back.
    """
    file = real(file)
    path = config.storage.path
    if not file.is_file():
        reason = "is no file" if file.exists() else "there is no such file"
        raise SensorNodeError(f"{file}: {reason}")
    if path.exists() and file.samefile(path):
        raise SensorNodeError(f"{file}: is the database in use; salvage is for an old one")
    with (
        _kept_from_nodes(file),
        open_for_writing(config) as repository,
        _only_salvage(path),
        _opened(file, config) as damaged_file,
    ):
        added, complete = _bring_back(config, damaged_file, repository)
        _report(damaged_file, file, added, complete)
        if not damaged_file.found and damaged_file.unreadable:
            raise SensorNodeError(f"{file}: too damaged: no reading can be found in it")
    if not complete:
        raise SensorNodeError(
            f"{path}: has no room for the rest; when readings have been delivered, or with a larger"
            " [storage] max_size, give the command again: nothing comes twice"
        )
    if added and config.sink.at_most_once:
        print("each may have been sent before: it is IN_DOUBT until sensor-node-ctl requeue")
    return exits.OK


def _bring_back(
    config: Config, damaged_file: DamagedFile, repository: SensorDataSQLRepository
) -> tuple[int, bool]:
    """How many readings came back, and whether those are all.

    The node can write between any two chunks.
    """
    policy, source = policy_of(config), damaged_file.path.name
    added = 0
    for chunk in damaged_file.undelivered(at_most_once=policy.at_most_once):
        if not _make_room(config, repository):
            return added, False
        while (new := repository.salvage(chunk, source, policy, time.time())) is None:
            continue
        added += new
        if repository.wal_bytes() > WAL_LIMIT_BYTES:
            repository.checkpoint(truncate=True)
    return added, True


def _make_room(config: Config, repository: SensorDataSQLRepository) -> bool:
    """Whether a chunk has room. Delivered readings are deleted for it; none is evicted."""
    room = SizeLimits(config.storage.max_size, config.storage.min_free)
    after, ended = 0, False
    while True:
        space = repository.space(room)
        if space.tight:
            return False
        if space.left >= space.spare + CHUNK_BYTES:
            return True
        if ended:
            return False
        _, after, ended = repository.purge(after, None, time.time())


def _report(damaged_file: DamagedFile, file: Path, added: int, complete: bool) -> None:
    parts = [f"{damaged_file.delivered} delivered"]
    if complete:
        parts.append(f"{damaged_file.found - damaged_file.delivered - added} here already")
        parts.append(f"{damaged_file.unreadable} unreadable")
    outcome = f"brought back {counted(added, 'reading')}" if added else "nothing to bring back"
    print(f"{outcome} from {file}; found {damaged_file.found}: {', '.join(parts)}")
    if added and not damaged_file.keeps_ids:
        print("their ids could not be read: what the sink had already comes to it with another id")


@contextlib.contextmanager
def _opened(file: Path, config: Config) -> Iterator[DamagedFile]:
    """The old database; a copy with a new first page if SQLite cannot read that page."""
    with contextlib.ExitStack() as opened:
        try:
            damaged_file = DamagedFile(file, config.node_id)
        except Unreadable:
            if not replace_header.is_ours(file):
                raise
            place = config.storage.path.parent
            directory = tempfile.TemporaryDirectory(prefix="salvage-", dir=place)
            copy = replace_header.copy_with_new_header(file, Path(opened.enter_context(directory)))
            damaged_file = DamagedFile(copy, config.node_id)
        yield opened.enter_context(contextlib.closing(damaged_file))


@contextlib.contextmanager
def _kept_from_nodes(file: Path) -> Iterator[None]:
    """Keep nodes off `file` meanwhile. Raises SensorNodeError if one uses it, by any name."""
    with contextlib.ExitStack() as opened:
        for name in (file, file.with_name(file.name + LOCK_SUFFIX)):
            if name.exists():
                descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                opened.callback(os.close, descriptor)
                _lock(descriptor, file)
        yield


@contextlib.contextmanager
def _only_salvage(database: Path) -> Iterator[None]:
    """One salvage at a time, by a POSIX lock: the flock on the same file is the write lock."""
    with open_unlinked(writer_file(real(database)), "r+b") as opened:
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pids = [
                lock.pid for lock in locks.on(os.fstat(opened.fileno())) if lock.kind == "POSIX"
            ]
            holder_name = f"another salvage (pid {pids[0]})" if pids else "another salvage"
            raise SensorNodeError(
                f"{database}: {holder_name} is at work; wait for its end"
            ) from None
        yield


def _lock(descriptor: int, file: Path) -> None:
    try:
        # A node's lock is exclusive. This one is shared, so that nobody takes it for a node's.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = holder(os.fstat(descriptor))
        node = f"a node (pid {pid})" if pid else "a node"
        raise SensorNodeError(f"{file}: {node} uses it; stop that node first") from None
