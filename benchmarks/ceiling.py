"""The sink's own limit, with the node taken away: prebuilt requests over kept connections.

Called as a program, `ceiling.py PORT BATCH SECONDS` is one of those connections.
"""

import socket
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import throughput
from benchmarks.report import Row
from benchmarks.sink import Sink
from benchmarks.trial import Trial

# Messages in a request, and senders, of everything whose share of the ceiling is shown.
LOADS = tuple(dict.fromkeys((load.batch, load.senders) for load in throughput.LOADS))
MESSAGE = (
    '{{"id":"9f3c2a71b0de4c55a1e07d12-{}","node":"edge-01","name":"bench",'
    '"value":20.052358920582,"timestamp":"2026-11-23T07:44:38.120001Z"}}'
)
HEAD = (
    "POST /telemetry HTTP/1.1\r\nHost: 127.0.0.1:8470\r\nUser-Agent: sensor-node/0.1.0\r\n"
    "Accept-Encoding: identity\r\nAccept: */*\r\nConnection: keep-alive\r\n"
    "Content-Type: application/json\r\n"
    'Idempotency-Key: "9f3c2a71b0de4c55a1e07d12-1042-1141-5be1c0ffee"\r\n'
    "Content-Length: {}\r\n\r\n"
)
ROWS = tuple(
    Row(f"ceiling {batch}/{senders}", f"the sink alone, batch {batch:,} over {senders}", "/s")
    for batch, senders in LOADS
)


def run(trial: Trial) -> None:
    seconds = trial.size(2.0, 0.5)
    for batch, senders in LOADS:
        trial.add(f"ceiling {batch}/{senders}", rate(trial.sink_port, batch, senders, seconds))


def rate(port: int, batch: int, senders: int, seconds: float) -> float:
    """Messages a second that a sink takes from so many processes that only send."""
    with Sink(port) as sink:
        command = [sys.executable, __file__, str(sink.port), str(batch), str(seconds)]
        # Ended with their time, so that an interrupt leaves nothing.
        children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(senders)]
        try:
            return sum(float(child.communicate()[0]) for child in children)
        finally:
            for child in children:
                child.kill()


def request(batch: int) -> bytes:
    """One request as the node sends it; a lone message is no array."""
    messages = [MESSAGE.format(number) for number in range(1, batch + 1)]
    body = messages[0] if batch == 1 else f"[{','.join(messages)}]"
    return (HEAD.format(len(body)) + body).encode()


def send(port: int, batch: int, seconds: float) -> float:
    """Messages a second over one connection, each request after the answer to the last."""
    content, sent = request(batch), 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            connection.sendall(content)
            connection.recv(4096)
            sent += batch
    return sent / (now - began)


if __name__ == "__main__":
    print(send(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
