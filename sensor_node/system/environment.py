"""Which environment variables are passed on: others may hold passwords of who started the node."""

from collections.abc import Mapping

PLAIN = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR")
LOCALE = "LC_"
# Where this program is, and what systemd tells it: systemd.exec(5), sd_notify(3).
OWN = (
    *("PYTHONPATH", "SENSOR_NODE_CONFIG", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("JOURNAL_STREAM", "INVOCATION_ID", "CREDENTIALS_DIRECTORY", "MAINPID"),
)


def for_command(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a sensor's command gets."""
    return _select(environment, PLAIN)


def for_program(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that this program keeps when it goes on as another user."""
    return _select(environment, PLAIN + OWN)


def _select(environment: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name in names or name.startswith(LOCALE)
    }
