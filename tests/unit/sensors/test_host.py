"""Host metrics are what the machine says, or a SourceError that says what to do."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from sensor_node.core.errors import SourceError
from sensor_node.sensors.host import HostSettings, HostSource


class CpuTimes(NamedTuple):
    """As psutil.cpu_times() on Linux."""

    user: float = 0
    nice: float = 0
    system: float = 0
    idle: float = 0
    iowait: float = 0
    irq: float = 0
    softirq: float = 0
    steal: float = 0
    guest: float = 0
    guest_nice: float = 0


class Temperature(NamedTuple):
    label: str
    current: float
    high: float | None = None
    critical: float | None = None


def host(metric: str, path: str = "/") -> HostSource:
    return HostSource("host", HostSettings(metric, path))


def value(source: HostSource) -> float:
    (reading,) = source.read(3, [1_000])
    assert (reading.name, reading.timestamp_us) == ("host", 1_000)
    return reading.value


def answer(monkeypatch: pytest.MonkeyPatch, function: str, result: Any) -> None:
    monkeypatch.setattr(psutil, function, lambda *_: result)


@pytest.mark.parametrize("metric", ["cpu", "memory", "disk"])
def test_this_machine_gives_a_percentage(metric: str) -> None:
    percent = value(host(metric))
    assert isinstance(percent, float)
    assert 0 <= percent <= 100


def test_this_machine_gives_a_temperature_or_says_that_it_has_none() -> None:
    try:
        assert math.isfinite(value(host("temperature")))
    except SourceError as error:
        assert "use another metric" in str(error)


def test_cpu_tells_how_busy_it_was_since_the_reading_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, "cpu_times", CpuTimes(user=1000, idle=1000))
    source = host("cpu")
    answer(monkeypatch, "cpu_times", CpuTimes(user=1001, guest=1, idle=1002, iowait=1))
    assert value(source) == 25.0
    answer(monkeypatch, "cpu_times", CpuTimes(user=1001, guest=1, system=4, idle=1002, iowait=1))
    assert value(source) == 100.0


def test_two_cpu_sensors_do_not_take_each_others_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "cpu_times", CpuTimes(user=10, idle=10))
    first, second = host("cpu"), host("cpu")
    answer(monkeypatch, "cpu_times", CpuTimes(user=11, idle=11))
    assert value(first) == value(second) == 50.0


def test_cpu_repeats_itself_while_the_kernels_counters_stand_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, "cpu_times", CpuTimes(user=1, idle=3))
    assert value(host("cpu")) == 25.0


def test_cpu_stays_a_percentage_when_iowait_goes_backwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, "cpu_times", CpuTimes(user=10, idle=10, iowait=5))
    source = host("cpu")
    answer(monkeypatch, "cpu_times", CpuTimes(user=14, idle=10, iowait=4))
    assert value(source) == 100.0


def test_cpu_takes_counters_that_went_back_for_its_new_base_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine that was suspended, or moved to another host."""
    answer(monkeypatch, "cpu_times", CpuTimes(user=1000, idle=1000))
    source = host("cpu")
    answer(monkeypatch, "cpu_times", CpuTimes(user=1003, idle=1001))
    assert value(source) == 75.0
    answer(monkeypatch, "cpu_times", CpuTimes(user=10, idle=10))
    assert value(source) == 75.0
    answer(monkeypatch, "cpu_times", CpuTimes(user=11, idle=11))
    assert value(source) == 50.0


def test_disk_looks_at_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        percent: float

    monkeypatch.setattr(psutil, "disk_usage", lambda path: Usage({"/data": 41.5}[path]))
    assert value(host("disk", "/data")) == 41.5


def test_the_processors_chip_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    chips = {
        "nvme": [Temperature("Composite", 31.0)],
        "coretemp": [Temperature("Package id 0", 52.0), Temperature("Core 0", 50.0)],
    }
    answer(monkeypatch, "sensors_temperatures", chips)
    assert value(host("temperature")) == 52.0


def test_without_a_known_chip_the_first_that_has_a_sensor_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, "sensors_temperatures", {"empty": [], "nvme": [Temperature("", 31.0)]})
    assert value(host("temperature")) == 31.0


def test_a_machine_without_temperature_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "sensors_temperatures", {})
    with pytest.raises(SourceError, match="no temperature; use another metric"):
        value(host("temperature"))


def test_a_missing_path_is_a_source_error_that_names_it(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(SourceError, match=rf"No such file or directory: '{missing}'; check path"):
        value(host("disk", missing))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), psutil.Error("gone")])
def test_what_psutil_raises_is_a_source_error_and_only_when_read(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(psutil, "cpu_times", fail)
    source = host("cpu")
    with pytest.raises(SourceError, match="no cpu reading"):
        value(source)
