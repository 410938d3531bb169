"""Times claiming and settling batches, in the process that runs this: the node's Python.

Usage: claims.py DATABASE COUNT    of a stopped node whose sink is UP. Prints a JSON list of the
milliseconds that claim_fresh() and settle() take together.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

from sensor_node.core.model import Outcome, Verdict
from sensor_node.core.schedule import BackoffPolicy
from sensor_node.core.settlement import Rules
from sensor_node.storage.queue.rate_limit import ClaimPolicy
from sensor_node.storage.repository import SensorDataSQLRepository

BATCH_SIZE = 5000
BACKOFF = BackoffPolicy(initial_delay=1.0, multiplier=2.0, max_delay=300.0)
POLICY = ClaimPolicy(BATCH_SIZE, max_rate=0.0, longest=BACKOFF.longest, at_most_once=False)
RULES = Rules(BACKOFF, at_most_once=False, max_attempts=0)
DELIVERED = Outcome(Verdict.DELIVERED, "200 OK", answered=True, fate_known=True)


def milliseconds(repository: SensorDataSQLRepository) -> float:
    began = time.monotonic()
    claim = repository.claim_fresh("bench", POLICY, time.time(), BATCH_SIZE)
    if claim is None or not repository.settle(claim, DELIVERED, RULES, time.time()):
        raise SystemExit("claims: nothing to claim; is the sink DOWN?")
    return 1000 * (time.monotonic() - began)


if __name__ == "__main__":
    with contextlib.closing(SensorDataSQLRepository(Path(sys.argv[1]))) as opened:
        milliseconds(opened)  # the first one fills the caches
        print(json.dumps([milliseconds(opened) for _ in range(int(sys.argv[2]))]))
