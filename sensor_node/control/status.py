"""status: how things are, as text or as JSON, and as an exit status."""

import json
import sys

from sensor_node.config.loader import Config
from sensor_node.control import exits, status_report, status_text
from sensor_node.core.clock import SystemClock


def status(config: Config, *, as_json: bool) -> int:
    """Print the status report; the exit status follows the Linux Standard Base."""
    report = status_report.take(config, SystemClock().now())
    if as_json:
        print(json.dumps(report))
    else:
        print(status_text.render(report, colour=sys.stdout.isatty()))
    if report["state"] == "dead":
        return exits.DEAD_BUT_PID_FILE
    if report["state"] == "unknown" or report["database_error"]:
        return exits.UNKNOWN
    return exits.STOPPED if report["state"] == "stopped" else exits.RUNNING
