"""A rollback journal beside our database is never opened: nobody of ours makes one.

The database has a WAL. SQLite would play a journal back that somebody has put there, and delete the
file that it names.
"""

import os
import time
from pathlib import Path

from sensor_node.clock import utc_of
from sensor_node.log import LOGGER
from sensor_node.storage.aside import STAMP

# https://www.sqlite.org/fileformat.html: which version writes and which reads; 2 is the WAL.
VERSIONS = slice(18, 20)
WAL = b"\2\2"


def move_aside(database: Path) -> None:
    """Whoever may not do so may not play it back either.

    Not of a database that has no WAL: that is another program's, which may need it. Call it where
    this process has no connection to the database.
    """
    journal = database.with_name(database.name + "-journal")
    if not os.path.lexists(journal):
        return
    kept = journal.with_name(f"{journal.name}.aside-{utc_of(time.time()).strftime(STAMP)}")
    try:
        with database.open("rb") as opened:
            if opened.read(VERSIONS.stop)[VERSIONS] != WAL:
                return
        journal.rename(kept)
    except OSError:
        return
    LOGGER.error("journal_aside %s: no node has made it; it is now %s", journal, kept)
