"""A rollback journal beside our database is never opened: a node that lives has none.

The database has a WAL from its first page on. SQLite would play a journal back that somebody has
put there, whatever the database's header says, and delete the file that it names.
"""

import os
import time
from pathlib import Path

from sensor_node.core.clock import utc_of
from sensor_node.storage.engine.quarantine import STAMP
from sensor_node.system.log import LOGGER


def lies_beside(database: Path) -> bool:
    return os.path.lexists(_name(database))


def quarantine(database: Path) -> None:
    """Under the write lock, as SQLite has one for a moment when it makes a database.

    Whoever may not do so may not play it back either.
    """
    if not lies_beside(database):
        return
    journal = _name(database)
    kept = journal.with_name(f"{journal.name}.aside-{utc_of(time.time()).strftime(STAMP)}")
    try:
        journal.rename(kept)
    except OSError:
        return
    LOGGER.error("journal_aside %s: no node has made it; it is now %s", journal, kept)


def _name(database: Path) -> Path:
    return database.with_name(database.name + "-journal")
