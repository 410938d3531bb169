"""check: whether the configuration is good, and the service can open the files that it names."""

import os
import sys

from sensor_node.config.loader import Config
from sensor_node.control import access, exits, privileges, problems, systemctl
from sensor_node.control.times import counted
from sensor_node.system.text import visible

NOT_TRIED = "what the service must open is tried by root, or by its own user"


def check(config: Config, *, with_values: bool) -> int:
    """Change nothing. Root becomes the service's user, for good.

    `with_values`: print each option instead, with the file that sets it.
    """
    for row in config.effective if with_values else ():
        source = row.file or "default"
        print(visible(f"[{row.section}] {row.option} = {row.value}  # {source}"))
    if with_values:
        return exits.OK
    is_service = _become_service(config)
    faults = access.faults(config) if is_service else []
    for fault in faults:
        print(f"sensor-node-ctl: {visible(fault)}", file=sys.stderr)
    if not faults:
        print(f"{config.file}: good, {counted(len(config.sensors), 'sensor')}")
    for note in problems.notes(config) + ([] if is_service else [NOT_TRIED]):
        print(f"note: {visible(note)}")
    return exits.FAILED if faults else exits.OK


def _become_service(config: Config) -> bool:
    """Root becomes the service's user. Returns whether this process runs as that user now."""
    user, groups = systemctl.user_of(config.file)
    if user:
        return privileges.drop_to(user, groups)
    privileges.drop(*privileges.of_config(config))
    try:
        return config.state_directory.stat().st_uid == os.geteuid()
    except FileNotFoundError:
        return True  # any user may start the node here
    except OSError:
        return False
