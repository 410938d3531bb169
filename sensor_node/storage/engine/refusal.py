"""What the kernel has against a write: SQLite calls an I/O error whatever is not a full disk."""

import contextlib
import errno
import os
import resource
from pathlib import Path

FILE_SIZE_LIMIT = "file size limit"
REASONS = {errno.EDQUOT: "quota exceeded", errno.EFBIG: FILE_SIZE_LIMIT}
BLOCK_BYTES = 4096


def of_writing(database: Path) -> str:
    """Told by the limit of this process, and by a file without a name; else ""."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name in (database, database.with_name(f"{database.name}-wal")):
        with contextlib.suppress(OSError):
            if limit != resource.RLIM_INFINITY and name.stat().st_size + BLOCK_BYTES > limit:
                return FILE_SIZE_LIMIT
    try:
        probe = os.open(database.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(probe, bytes(BLOCK_BYTES), 0)
        finally:
            os.close(probe)
    except OSError as error:
        return REASONS.get(error.errno or 0, "")
    return ""
