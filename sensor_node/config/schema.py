"""Every option of config.ini: section, name, what is allowed, default and help, in one table.

The configuration file, its man page and `sensor-node-ctl check` are tested against this table. The
options that only one source has come from that source's row of SOURCES.
"""

from dataclasses import replace

from sensor_node.core.options import (
    NAME,
    PROXY,
    RATE,
    STATUSES,
    SUCCESSES,
    TEXT,
    URL,
    Option,
    choice,
    duration,
    integer,
    number,
    row_of,
    size,
)
from sensor_node.formats import FORMATS
from sensor_node.sensors import SOURCES

# fmt: off
SCHEMA = (
    Option("node", "id", NAME, "", "Sent with every reading. Empty: the host name."),
    Option("sensor", "source", row_of(SOURCES), "mock", "Where it comes from."),
    Option("sensor", "rate", RATE, "1", "Readings a second; also 6/min, 4/h."),
    *(replace(option, source=row.name) for row in SOURCES for option in row.options),
    Option("storage", "path", TEXT, "", "The database file. Empty: in the state directory."),
    Option("storage", "max_size", size("4MiB", "1024GiB"), "256MiB", "Bound of the database."),
    Option("storage", "min_free", size("0", "1024GiB"), "64MiB", "Left of the disk to others."),
    Option("storage", "when_full", choice("drop-oldest", "drop-newest"), "drop-oldest",
           "Which undelivered readings to give up when there is no room."),
    Option("storage", "keep_sent", duration("0s", "3650d"), "24h",
           "Delivered readings stay this long for looking up."),
    Option("storage", "max_age", duration("0s", "3650d"), "0s",
           "Give up undelivered readings that are older. 0s: never."),
    Option("storage", "commit_interval", duration("0s", "1m", empty=True), "",
           "Readings are committed together this often. Empty: each at up to 10/s, else 30ms."),
    Option("sink", "url", URL, "http://127.0.0.1:8470/telemetry", "Where readings are POSTed."),
    Option("sink", "format", row_of(FORMATS), "json",
           "An array, or one object a line."),
    Option("sink", "batch_size", integer(1, 10_000), "100", "Most readings in one request."),
    Option("sink", "send_interval", duration("0s", "24h"), "0s",
           "Wait until a batch is full or its oldest reading is this old."),
    Option("sink", "compression", choice("none", "gzip"), "none", "Of the request's body."),
    Option("sink", "timeout", duration("100ms", "10m"), "30s", "For a whole request."),
    Option("sink", "delivery", choice("at-least-once", "at-most-once"), "at-least-once",
           "Repeats carry the same ids; at-most-once never repeats and asks you."),
    Option("sink", "token_file", TEXT, "", "File with a bearer token."),
    Option("sink", "username", TEXT, "", "For basic authentication, with password_file."),
    Option("sink", "password_file", TEXT, "", "File with the password."),
    Option("sink", "ca_file", TEXT, "", "CA certificates to trust instead of the system's."),
    Option("sink", "cert_file", TEXT, "", "Client certificate (PEM)."),
    Option("sink", "key_file", TEXT, "", "Its key, if not in cert_file."),
    Option("sink", "proxy", PROXY, "", "HTTP proxy; the environment's is never used."),
    Option("sink", "max_rate", number(0, 1e6), "0", "Readings a second at most. 0: no limit."),
    Option("sink", "success_statuses", SUCCESSES, "200-299", "Answers that mean: delivered."),
    Option("sink", "refused_statuses", STATUSES, "400, 413, 422",
           "Answers that object to the readings themselves."),
    Option("retry", "initial_delay", duration("10ms", "1h"), "1s", "Ceiling of the first wait."),
    Option("retry", "multiplier", number(1, 100), "2", "Growth of the ceiling."),
    Option("retry", "max_delay", duration("10ms", "24h"), "5m", "Highest ceiling."),
    Option("retry", "max_attempts", integer(0, 1_000_000), "0",
           "DEAD after so many answers of a working sink. 0: never give up."),
    Option("process", "senders", integer(1, 64), "2", "How many processes deliver new readings."),
    Option("process", "stop_timeout", duration("1s", "5m"), "10s", "Then they are killed."),
    Option("log", "level", choice("debug", "info", "warning", "error"), "info",
           "Least severe line."),
)
# fmt: on


def options_of(section: str) -> dict[str, Option]:
    """The rows of one section, by name; a sensor's section is `sensor`.

    It has the options of all sources. Where several have one of the same name, one row stands for
    them: see sensor_options().
    """
    return {option.name: option for option in SCHEMA if option.section == section}


def sensor_options(source: str) -> dict[str, Option]:
    """The rows of a sensor that has this source, by name; an empty `source`: those of every one."""
    rows = [option for option in SCHEMA if option.section == "sensor"]
    return {option.name: option for option in rows if option.source in ("", source)}


def sources_with(name: str) -> list[str]:
    """The sources whose sensors have an option of this name as their own."""
    return [option.source for option in SCHEMA if option.source and option.name == name]


SECTIONS = tuple(dict.fromkeys(option.section for option in SCHEMA))
