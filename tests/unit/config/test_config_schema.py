"""The table of options: each kind takes what it says it takes, and nothing else."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor_node.config.schema import SCHEMA, SECTIONS, options_of
from sensor_node.core.options import (
    DURATION_UNITS,
    SIZE_UNITS,
    parse_duration,
    parse_rate,
    parse_size,
    parse_statuses,
)

OPTIONS = {(option.section, option.name): option for option in SCHEMA}
ROWS = {(option.section, option.name, option.source) for option in SCHEMA}

# For each kind of option: what is taken, as which value, and what is refused.
TAKEN = [
    ("node", "id", "", ""),
    ("node", "id", "Würzburg 1", "Würzburg 1"),
    ("node", "id", "x" * 128, "x" * 128),
    ("sensor", "rate", "1", 1.0),
    ("sensor", "rate", "2.5", 2.5),
    ("sensor", "rate", "6/min", 0.1),
    ("sensor", "rate", "4/h", 4 / 3600),
    ("sensor", "rate", "10/s", 10.0),
    ("sensor", "rate", "1000000", 1e6),
    ("sensor", "rate", "0.000001", 1e-6),
    ("sensor", "min", "-40", -40.0),
    ("sensor", "min", "1e299", 1e299),
    ("sensor", "period", "10ms", 0.01),
    ("sensor", "period", "365d", 365 * 86_400.0),
    ("sensor", "noise", "0", 0.0),
    ("sensor", "seed", "", None),
    ("sensor", "seed", "-7", -7),
    ("sensor", "timeout", "100ms", 0.1),
    ("storage", "max_size", "4MiB", 4 * 1024**2),
    ("storage", "max_size", "1024GiB", 1024**4),
    ("storage", "max_size", "5000000", 5_000_000),
    ("storage", "min_free", "0", 0),
    ("storage", "min_free", "512 KiB", 512 * 1024),
    ("storage", "when_full", "drop-newest", "drop-newest"),
    ("storage", "keep_sent", "0", 0.0),
    ("storage", "keep_sent", "1.5h", 5400.0),
    ("storage", "commit_interval", "", None),
    ("storage", "commit_interval", "0s", 0.0),
    ("storage", "commit_interval", "1m", 60.0),
    ("sink", "url", "https://sink.example:8443/a/b?c=d", "https://sink.example:8443/a/b?c=d"),
    ("sink", "url", "http://[::1]:8470/telemetry", "http://[::1]:8470/telemetry"),
    ("sink", "proxy", "", ""),
    ("sink", "proxy", "http://proxy.example:3128", "http://proxy.example:3128"),
    ("sink", "batch_size", "1", 1),
    ("sink", "batch_size", "10000", 10_000),
    ("sink", "timeout", "10m", 600.0),
    ("sink", "max_rate", "0.5", 0.5),
    ("sink", "success_statuses", "200, 202-204", frozenset((200, 202, 203, 204))),
    ("sink", "refused_statuses", "", frozenset()),
    ("sink", "refused_statuses", "400,422,", frozenset((400, 422))),
    ("retry", "multiplier", "1", 1.0),
    ("retry", "max_attempts", "0", 0),
    ("process", "senders", "64", 64),
    ("log", "level", "debug", "debug"),
]
REFUSED = [
    ("node", "id", "x" * 129),
    ("node", "id", "é" * 65),
    ("node", "id", "a\tb"),
    ("node", "id", "two\nlines"),
    ("sensor", "source", "mqtt"),
    ("sensor", "source", ""),
    ("sensor", "source", "Mock"),
    ("sensor", "rate", "0"),
    ("sensor", "rate", "-1"),
    ("sensor", "rate", "1000001"),
    ("sensor", "rate", "0.0000001"),
    ("sensor", "rate", "nan"),
    ("sensor", "rate", "inf"),
    ("sensor", "rate", "1/day"),
    ("sensor", "rate", "1/"),
    ("sensor", "rate", "fast"),
    ("sensor", "rate", ""),
    ("sensor", "min", "nan"),
    ("sensor", "min", "-inf"),
    ("sensor", "max", "1e300"),
    ("sensor", "noise", "-0.1"),
    ("sensor", "noise", "nan"),
    ("sensor", "seed", "1.5"),
    ("sensor", "period", "9ms"),
    ("sensor", "period", "366d"),
    ("sensor", "timeout", "99ms"),
    ("storage", "max_size", "3MiB"),
    ("storage", "max_size", "1025GiB"),
    ("storage", "max_size", "256MB"),
    ("storage", "max_size", "-256MiB"),
    ("storage", "max_size", "1.5GiB"),
    ("storage", "max_size", "9" * 5000),
    ("storage", "when_full", "drop"),
    ("storage", "keep_sent", "24"),
    ("storage", "keep_sent", "-1h"),
    ("storage", "keep_sent", "3651d"),
    ("storage", "keep_sent", "1 h"),
    ("storage", "keep_sent", "1h30m"),
    ("storage", "commit_interval", "61s"),
    ("storage", "commit_interval", "fast"),
    ("sink", "url", ""),
    ("sink", "url", "ftp://sink.example/"),
    ("sink", "url", "sink.example/telemetry"),
    ("sink", "url", "http://"),
    ("sink", "url", "http://joe:secret@sink.example/"),
    ("sink", "url", "http://sink.example:99999/"),
    ("sink", "url", "http://sink.example:0/"),
    ("sink", "url", "http://sink.example:port/"),
    ("sink", "url", "http://sink.example/a b"),
    ("sink", "url", "http://[::1/"),
    ("sink", "url", "http://münchen.example/"),
    ("sink", "proxy", "socks5://proxy.example"),
    ("sink", "batch_size", "0"),
    ("sink", "batch_size", "10001"),
    ("sink", "batch_size", "1e3"),
    ("sink", "timeout", "0s"),
    ("sink", "timeout", "11m"),
    ("sink", "max_rate", "-1"),
    ("sink", "max_rate", "inf"),
    ("sink", "success_statuses", ""),
    ("sink", "success_statuses", " , "),
    ("sink", "success_statuses", "199"),
    ("sink", "success_statuses", "600"),
    ("sink", "success_statuses", "299-200"),
    ("sink", "success_statuses", "2xx"),
    ("sink", "refused_statuses", "-400"),
    ("retry", "initial_delay", "9ms"),
    ("retry", "initial_delay", "2h"),
    ("retry", "multiplier", "0.99"),
    ("retry", "multiplier", "101"),
    ("retry", "multiplier", "nan"),
    ("retry", "max_delay", "25h"),
    ("retry", "max_attempts", "-1"),
    ("retry", "max_attempts", "1000001"),
    ("process", "senders", "0"),
    ("process", "senders", "65"),
    ("process", "stop_timeout", "999ms"),
    ("process", "stop_timeout", "6m"),
    ("log", "level", "trace"),
]


@pytest.mark.parametrize(("section", "name", "text", "value"), TAKEN)
def test_what_is_allowed_is_taken(section, name, text, value) -> None:
    assert OPTIONS[section, name].kind.parse(text) == value


@pytest.mark.parametrize(("section", "name", "text"), REFUSED)
def test_what_is_not_allowed_is_refused(section, name, text) -> None:
    with pytest.raises(ValueError):
        OPTIONS[section, name].kind.parse(text)


@pytest.mark.parametrize("option", SCHEMA, ids=lambda option: f"{option.section}-{option.name}")
class TestEachOption:
    def test_has_a_good_default(self, option) -> None:
        option.kind.parse(option.default)

    def test_says_in_a_sentence_what_it_is_for(self, option) -> None:
        assert option.help.endswith(".")
        assert len(option.help) > 10

    def test_says_what_is_allowed(self, option) -> None:
        assert option.kind.allowed
        assert "\n" not in option.kind.allowed

    def test_limits_itself_to_a_source_only_if_it_is_a_sensors(self, option) -> None:
        sources = options_of("sensor")["source"].kind
        assert not option.source or option.section == "sensor"
        assert not option.source or sources.parse(option.source)

    @given(text=st.text())
    def test_refuses_nonsense_only_by_value_error(self, option, text) -> None:
        with contextlib.suppress(ValueError):
            option.kind.parse(text)


def test_no_option_is_in_the_table_twice() -> None:
    assert len(ROWS) == len(SCHEMA)


def test_the_sections_go_from_the_sensors_to_the_sink_and_the_rest() -> None:
    assert SECTIONS == ("node", "sensor", "storage", "sink", "retry", "process", "log")


@given(st.integers(0, 10**6), st.sampled_from(sorted(DURATION_UNITS)))
def test_a_duration_is_its_number_times_its_unit(number, unit) -> None:
    assert parse_duration(f"{number}{unit}") == number * DURATION_UNITS[unit]


@given(st.integers(0, 10**9), st.sampled_from(sorted(SIZE_UNITS)))
def test_a_size_is_its_number_times_its_unit(number, unit) -> None:
    assert parse_size(f"{number}{unit}") == number * SIZE_UNITS[unit]


@given(st.floats(1e-6, 1e6))
def test_a_rate_keeps_every_digit(rate) -> None:
    assert parse_rate(repr(rate)) == rate
    assert math.isclose(parse_rate("90/min"), 1.5)


@given(st.sets(st.integers(200, 599)))
def test_statuses_are_those_listed(statuses) -> None:
    assert parse_statuses(", ".join(map(str, statuses))) == statuses
