"""One SQLite file, safely: opened, locked, checkpointed, and put in quarantine when damaged."""
