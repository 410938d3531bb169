"""The program of scripts/torture, run in the environment that the script has made."""

import shutil
import signal
import sys
import tempfile
from pathlib import Path

from torture.run import torture


def main() -> int:
    """Arguments: minutes, seed. 0: every promise held; 1: one did not, and the files are kept."""
    minutes, seed = float(sys.argv[1]), int(sys.argv[2])
    # To be interrupted is to unmount and to end what was started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="sensor-node-torture-"))
    try:
        good = torture(minutes * 60, seed, directory, lambda text: print(text, flush=True))
    except KeyboardInterrupt:
        shutil.rmtree(directory)
        print("torture: interrupted", file=sys.stderr)
        return 130
    if good:
        shutil.rmtree(directory)
    else:
        print(f"torture: what is needed to find out why is in {directory}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
