"""Exit statuses of sensor-node-ctl."""

OK = 0
FAILED = 1
USAGE = 2  # argparse's own
CONFIG = 78  # EX_CONFIG of sysexits.h; systemd does not restart on it

# Of `status`, by the Linux Standard Base, "Init Script Actions"
RUNNING = 0
DEAD_BUT_PID_FILE = 1
STOPPED = 3
UNKNOWN = 4  # also where the configuration or the database cannot be read
