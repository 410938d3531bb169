"""The ways in which the appliance can be broken; expected results are values, not exceptions."""


class SensorNodeError(Exception):
    """What went wrong and what to do about it, in one line, for a person to read."""


class ConfigError(SensorNodeError):
    """The configuration, or a file it names, must be mended by a person (exit status 78).

    One line for each thing that is wrong.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class DatabaseUnusable(ConfigError):
    """The database is not ours, newer than this program, or on a file system that loses data."""


# By a program that writes and does not end its transaction.
LOCKED = "locked by another program"
# Why a database cannot be used now; short and constant, fit to group by and to show.
STORAGE_REASONS = (
    "disk full",
    "quota exceeded",
    "file size limit",
    "read-only",
    "no permission",
    "I/O error",
    LOCKED,
    "cannot be opened",
    "damaged",
    "replaced",
)


class DatabaseDamaged(SensorNodeError):
    """What is in the database is not what was written there. Becomes StorageUnavailable."""


class StorageUnavailable(SensorNodeError):
    """The database cannot be used now: disk full, read-only, I/O error, locked. Try again later.

    `replaced`: at the next try there is another file in its place.

    `reason` is one of STORAGE_REASONS.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class SourceError(SensorNodeError):
    """A sensor gave no reading for a tick."""


# What Python 3.11 says, in a SystemError, where it has no memory for a call and MemoryError is due.
_UNSET = ("without exception set", "without setting an exception")


def is_out_of_memory(error: Exception) -> bool:
    """Whether the process had no memory left for what it was about to do."""
    unset = isinstance(error, SystemError) and str(error).endswith(_UNSET)
    return unset or isinstance(error, MemoryError)
