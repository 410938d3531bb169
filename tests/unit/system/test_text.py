"""Words of others on a person's terminal."""

import logging
from pathlib import Path

import pytest

from sensor_node.system import log
from sensor_node.system.text import visible, visible_lines


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("21.5 °C, é, 温度", "21.5 °C, é, 温度"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\nb\r\tc\0", "a\\nb\\r\\tc\\x00"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_would_steer_a_terminal_is_shown_escaped(said, shown) -> None:
    assert visible(said) == shown


def test_ones_own_line_ends_stay() -> None:
    assert visible_lines("a\nb\x1b") == "a\nb\\x1b"


@pytest.mark.parametrize("journal", [False, True])
def test_the_log_steers_no_terminal(monkeypatch, capfd, journal) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if journal:
        monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    before = list(log.LOGGER.handlers), log.LOGGER.level, log.LOGGER.propagate
    try:
        log.configure("info", Path("sensor-node.log"))
        log.LOGGER.info("sensor_failed %s", "\x1b]0;owned\x07")
        log.LOGGER.log(logging.INFO, "two\nlines")
    finally:
        log.LOGGER.handlers[:], log.LOGGER.level, log.LOGGER.propagate = before
    said = capfd.readouterr().err
    assert "\\x1b]0;owned\\x07" in said
    assert said.count("\n") == 3
