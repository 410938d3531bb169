"""check: whether the configuration is good, and the service can open what it names."""

import os
import sys

from sensor_node.config.loader import Config
from sensor_node.control import access, exits, privileges, problems, systemctl
from sensor_node.control.times import counted
from sensor_node.system.text import visible

NOT_TRIED = "what the service must open is tried by root, or by its own user"


def check(config: Config, *, with_values: bool) -> int:
    """Touches nothing. As root it becomes the service's user, for good."""
    for row in config.effective if with_values else ():
        where = row.file or "default"
        print(visible(f"[{row.section}] {row.option} = {row.value}  # {where}"))
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
    """Whether this process is the service's user's now."""
    user, groups = systemctl.user_of(config.file)
    if user:
        return privileges.drop_to(user, groups)
    privileges.drop(*privileges.of_config(config))
    try:
        return config.state_directory.stat().st_uid == os.geteuid()
    except FileNotFoundError:
        return True  # whoever starts it
    except OSError:
        return False
