"""Nonsense for what reads the world's words: configuration, Retry-After, answers, commands.

Each check raises AssertionError, or whatever the product let through.
"""

import contextlib
import random
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from sensor_node.config.loader import SinkConfig, load_config
from sensor_node.config.schema import SCHEMA, options_of
from sensor_node.core.clock import SystemClock
from sensor_node.core.errors import ConfigError, SourceError
from sensor_node.core.model import Outcome
from sensor_node.core.schedule import RETRY_AFTER_CAP_SECONDS
from sensor_node.delivery.answers import seconds_until
from sensor_node.delivery.client import HttpTelemetryClient
from sensor_node.sensors.command_output import parse_output

PACKAGED = Path(__file__).parents[2] / "config.ini"
WALL = 1_795_000_000.0
CASES = {"config": 10, "retry-after": 300, "answer": 10, "command": 100}
BITS = (
    *("=", ":", "[", "]", "[DEFAULT]", "\n", "\r\n", "\r", " ", "\t", "#", ";", "%(x)s", "${a}"),
    *("\0", "\x1b[31m", "\x85", "\u2028", "\ufeff", "\u202e", "é", "٣", "-1", "1e309", "nan"),
    *("inf", "9" * 5000, "0x10", "1_000", "½", "'", '"', "\\", "//u:p@h", "http://[::1", "{", "}"),
)
ANSWERS = (
    *("HTTP/1.1 200 OK\r\n", "HTTP/1.0 503 \r\n", "HTTP/1.1 429 x\r\n", "HTTP/1.1 301 Moved\r\n"),
    *("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 999 \x1b[31m\r\n", "Content-Length: 5\r\n"),
    *("Content-Length: -1\r\n", "Content-Length: many\r\n", "Transfer-Encoding: chunked\r\n"),
    *("Content-Encoding: gzip\r\n", "Retry-After: \xff\r\n", "Retry-After: 5\r\n", "\r\n", "\r\n"),
    *(
        "Location: http://[\r\n",
        "Location: //\x1b@/\r\n",
        "Date: Mon, 99 Foo\r\n",
        "5\r\nhello\r\n",
    ),
    *("0\r\n\r\n", "ffffffffffffffff\r\n", "<html>", "X" * 70_000, ": \r\n", " folded\r\n", "\0"),
)
DATES = ("Mon", ",", "31", "Feb", "2026", "99999999999", "07:44:38", "GMT", "+9999", "-0000", "(")


def run(what: str, seed: int) -> None:
    """Some cases of one kind; which ones follows from the seed."""
    dice = random.Random(seed)
    for _ in range(CASES[what]):
        if what == "config":
            check_config(some_config(dice))
        elif what == "retry-after":
            check_retry_after(some_text(dice, DATES), some_text(dice, DATES))
        elif what == "answer":
            check_answer(some_text(dice, ANSWERS).encode("latin-1", "replace"))
        else:
            names = ('"name":', '"value":', '"timestamp":', "1", '"x"', "[" * 5000, ",")
            check_command(some_text(dice, names).encode(errors="replace"))


def some_text(dice: random.Random, parts: tuple[str, ...]) -> str:
    return "".join(dice.choice(dice.choice((parts, BITS))) for _ in range(dice.randrange(1, 12)))


def some_config(dice: random.Random) -> bytes:
    """The packaged file, spoilt in some places."""
    text = PACKAGED.read_text()
    for _ in range(dice.randrange(1, 6)):
        option = dice.choice(SCHEMA)
        place = dice.randrange(len(text))
        line = f"\n{option.name} = {some_text(dice, ('10s', '1MiB', '5', 'mock'))}\n"
        bit = dice.choice((*BITS, line, line, f"\n[{option.section}]", "\n[sensor:]\n"))
        text = text[:place] + bit + text[place + dice.choice((0, 0, 1, 40)) :]
    body = bytearray(text.encode())
    if dice.random() < 0.1:
        body[dice.randrange(len(body))] = dice.randrange(256)
    return bytes(body)


def check_config(body: bytes) -> None:
    """It is a configuration, or there is a line for each mistake, fit for a terminal."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "config.ini"
        file.write_bytes(body)
        try:
            load_config(file)
        except ConfigError as error:
            assert error.lines
            for line in error.lines:
                assert line.isprintable(), line
                assert str(file) in line, line


def check_retry_after(text: str, date: str) -> None:
    seconds = seconds_until(text, date, WALL)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_CAP_SECONDS, (text, date, seconds)


def check_command(output: bytes) -> None:
    """Readings, or a line that says what is wrong."""
    try:
        readings = parse_output(output, "fuzz", 0)
    except SourceError as error:
        assert str(error).isprintable(), error
    else:
        assert readings
        assert all(isinstance(one.value, float) for one in readings)


def check_answer(body: bytes) -> Outcome:
    """Whatever comes is an outcome, told in one short line."""
    options = options_of("sink").values()
    values = {option.name: option.kind.parse(option.default) for option in options}
    with sink_that_answers(body) as port:
        url = f"http://127.0.0.1:{port}/telemetry"
        sink = SinkConfig(**(values | {"url": url, "timeout": 5.0}))
        client = HttpTelemetryClient(sink, SystemClock())
        try:
            outcome = client.post(b"[]", '"fuzz-1-1-0"')
        finally:
            client.close()
    for line in (outcome.detail, outcome.hint):
        assert line.isprintable(), line
        assert len(line) < 600, line
    assert outcome.retry_after is None or 0 <= outcome.retry_after <= RETRY_AFTER_CAP_SECONDS
    return outcome


@contextlib.contextmanager
def sink_that_answers(body: bytes) -> Iterator[int]:
    """A port where each request gets these bytes, and then the end of the connection."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(ConnectionError):
                    connection.settimeout(10)
                    received = b""
                    while not received.endswith(b"\r\n\r\n[]"):
                        received += connection.recv(65536) or b"\r\n\r\n[]"
                    connection.sendall(body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
