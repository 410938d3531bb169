"""Programs read UTC, people read local time with its offset, and nobody reads 5025 seconds."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor_node.control.times import amount, local, span, utc, utc_us

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_9999_US = 253_402_300_799 * 1_000_000


@pytest.fixture
def zone(monkeypatch):
    def set_zone(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


def test_programs_read_utc() -> None:
    assert utc(1_795_419_878.9) == "2026-11-23T07:44:38Z"
    assert utc(None) is None


def test_programs_read_a_readings_time_to_the_microsecond() -> None:
    assert utc_us(1_795_419_878_120_000) == "2026-11-23T07:44:38.120000Z"
    assert utc_us(0) == "1970-01-01T00:00:00.000000Z"


@given(st.integers(0, YEAR_9999_US))
def test_no_microsecond_is_lost_on_the_way(timestamp_us) -> None:
    shown = datetime.fromisoformat(utc_us(timestamp_us))
    assert (shown - EPOCH) // timedelta(microseconds=1) == timestamp_us


@pytest.mark.parametrize("timestamp_us", [-1, -62_135_596_800_000_000, -62_000_000_000_000_000])
def test_a_reading_from_before_1970_has_a_time_as_well(timestamp_us) -> None:
    shown = datetime.fromisoformat(utc_us(timestamp_us))
    assert (shown - EPOCH) // timedelta(microseconds=1) == timestamp_us


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("UTC", "2026-11-23 07:44:38+0000"),
        ("Europe/Berlin", "2026-11-23 08:44:38+0100"),
        ("Asia/Kolkata", "2026-11-23 13:14:38+0530"),
    ],
)
def test_people_read_local_time_with_its_offset(zone, name, shown) -> None:
    zone(name)
    assert local(1_795_419_878.0) == shown


@pytest.mark.parametrize("name", ["UTC", "America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("wall", [-62_135_596_800.0, 253_402_300_799.0, 0.0, -1.0])
def test_people_read_a_time_whatever_a_clock_once_said(zone, name, wall) -> None:
    zone(name)
    assert local(wall)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (0, "0s"),
        (0.4, "0s"),
        (45, "45s"),
        (59.6, "1m"),
        (60, "1m"),
        (185, "3m 5s"),
        (3600, "1h"),
        (3660, "1h 1m"),
        (7800.2, "2h 10m"),
        (86_400, "1d"),
        (4 * 86_400 + 3 * 3600 + 59, "4d 3h"),
        (400 * 86_400, "400d"),
    ],
)
def test_a_span_is_told_in_two_units_at_most(seconds, shown) -> None:
    assert span(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (21_504, "21.0 KiB"),
        (256 * 1024**2, "256.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (5000 * 1024**3, "5000.0 GiB"),
    ],
)
def test_an_amount_is_told_in_the_largest_unit_that_fits(size, shown) -> None:
    assert amount(size) == shown
