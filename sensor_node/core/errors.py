"""The exceptions of this program; expected results are values, not exceptions."""


class SensorNodeError(Exception):
    """What went wrong and what to do about it, in one line, for a person to read."""


class ConfigError(SensorNodeError):
    """A person must correct the configuration, or a file that it names (exit status 78).

    `lines`: one for each thing that is wrong.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class DatabaseUnusable(ConfigError):
    """The database is not ours, newer than this program, or on a file system that loses data."""


# Another program writes and does not end its transaction.
LOCKED = "locked by another program"
# Why a database cannot be used now: short and constant, fit to group by and to show.
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
    """The database holds something else than was written. storage/ makes it StorageUnavailable."""


class StorageUnavailable(SensorNodeError):
    """The database cannot be used now. Try again later.

    `reason` is one of STORAGE_REASONS. After "replaced" the next try opens the file that is there
    now. `detail`: for people, one line.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class SourceError(SensorNodeError):
    """A sensor gave no reading for a tick."""


# Without memory for a call Python 3.11 may raise a SystemError with such a text, not MemoryError.
_UNSET = ("without exception set", "without setting an exception")


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error means that the process has no memory left."""
    is_unset = isinstance(error, SystemError) and str(error).endswith(_UNSET)
    return is_unset or isinstance(error, MemoryError)
