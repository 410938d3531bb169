"""`python3 -m sensor_node` is sensor-node-ctl."""

import signal
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """The console script. Ctrl-C ends it in silence, also while modules are loaded."""
    try:
        # A shell's background job ignores it.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
        from sensor_node.control.main import main as control

        control()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Once: what is tidied up on the way out is not interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
