"""Why the kernel refuses a write: SQLite calls every reason but a full disk an I/O error."""

import contextlib
import errno
import os
import resource
from pathlib import Path

FILE_SIZE_LIMIT = "file size limit"
REASONS = {errno.EDQUOT: "quota exceeded", errno.EFBIG: FILE_SIZE_LIMIT}
BLOCK_BYTES = 4096


def of_writing(database: Path) -> str:
    """The reason why the database cannot be written; "" if it is none of REASONS.

    It compares sizes with this process's limit, and writes a block to a file without a name.
    """
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
