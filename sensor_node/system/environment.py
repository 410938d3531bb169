"""What of our environment is for others: whoever started this node may have a password in it."""

from collections.abc import Mapping

PLAIN = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR")
LOCALE = "LC_"
# Where this program is, and what systemd tells it: systemd.exec(5), sd_notify(3).
OWN = (
    *("PYTHONPATH", "SENSOR_NODE_CONFIG", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("JOURNAL_STREAM", "INVOCATION_ID", "CREDENTIALS_DIRECTORY", "MAINPID"),
)


def plain(environment: Mapping[str, str]) -> dict[str, str]:
    """For a sensor's command."""
    return _kept(environment, PLAIN)


def own(environment: Mapping[str, str]) -> dict[str, str]:
    """For this program, where it goes on as another user."""
    return _kept(environment, PLAIN + OWN)


def _kept(environment: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name in names or name.startswith(LOCALE)
    }
