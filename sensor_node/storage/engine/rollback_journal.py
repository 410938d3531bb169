"""Puts a rollback journal that lies beside the database into quarantine.

Our database has a WAL from its first page on, so no node has made that journal. SQLite would play
it back all the same, whatever the database's header says, and delete the file that it names.
"""

import os
import time
from pathlib import Path

from sensor_node.core.clock import utc_of
from sensor_node.storage.engine.quarantine import STAMP
from sensor_node.system.log import LOGGER


def lies_beside(database: Path) -> bool:
    return os.path.lexists(_journal_of(database))


def quarantine(database: Path) -> None:
    """Rename the journal, if there is one; it stays where this process may not rename it.

    The caller has the write lock: SQLite itself has a journal for a moment while it makes a
    database. A process that may not rename the journal may not play it back either.
    """
    if not lies_beside(database):
        return
    journal = _journal_of(database)
    stamp = utc_of(time.time()).strftime(STAMP)
    quarantined = journal.with_name(f"{journal.name}.quarantined-{stamp}")
    try:
        journal.rename(quarantined)
    except OSError:
        return
    LOGGER.error("journal_quarantined %s: no node has made it; it is now %s", journal, quarantined)


def _journal_of(database: Path) -> Path:
    return database.with_name(database.name + "-journal")
