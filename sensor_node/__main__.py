"""The command sensor-node-ctl, also run by `python3 -m sensor_node`."""

import signal
import sys
from types import FrameType

INTERRUPTED = 130  # the exit status that shells give to a command that SIGINT has ended


def main() -> None:
    """The console script. Ctrl-C ends it without a traceback, also while modules are imported."""
    try:
        # Not in a background job, which ignores SIGINT.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
        from sensor_node.control.main import main as control

        control()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but only once: a second Ctrl-C must not interrupt the cleanup."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
