"""What a source of readings is, and what a sensor of it is told."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sensor_node.core.model import Readings
from sensor_node.core.options import Option

Settings = Mapping[str, Any]  # option → value


class Source(Protocol):
    """One sensor, open. Opening it may take long, or fail, as a read() may."""

    def read(self, first_tick: int, timestamps_us: Sequence[int]) -> Readings:
        """The readings of ticks `first_tick`, `first_tick` + 1, … captured at `timestamps_us`.

        Only a simulated one is asked for more than one tick at a time. Raises SourceError, one line
        with what is wrong and its hint, when there is no reading.
        """
        ...

    def close(self) -> None:
        """Give up whatever it holds; a read() going on in another thread ends soon."""
        ...


def _no_complaints(settings: Settings) -> Iterable[tuple[str, str]]:
    return ()


@dataclass(frozen=True, slots=True)
class SourceType:
    """A row of SOURCES: all that is known of a source before a sensor of it is opened."""

    name: str  # [sensor:NAME] source = …
    # Has `open_source(sensor: SensorConfig, directory: Path) -> Source`.
    module: str
    max_rate: float  # readings a second; a real source is asked once a tick, and has to keep up
    options: tuple[Option, ...]  # its own; another source may have one of the same name
    # A simulated value is a function of the tick, not of the moment: late ticks can be made up.
    is_simulated: bool = False
    needs_pidfd: bool = False  # it waits for processes by pidfd_open(2)
    # Of the values of its own options, once each is right: (option, what it must be instead).
    check: Callable[[Settings], Iterable[tuple[str, str]]] = _no_complaints


@dataclass(frozen=True, slots=True)
class SensorConfig:
    """One [sensor:NAME] section."""

    name: str
    source: SourceType
    rate: float  # readings a second
    settings: Settings  # the source's own options; read-only

    @property
    def is_simulated(self) -> bool:
        return self.source.is_simulated
