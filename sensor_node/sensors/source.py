"""What every source of readings can do."""

from collections.abc import Sequence
from typing import Protocol

from sensor_node.model import Readings


class Source(Protocol):
    """One sensor. `makes_up_late_ticks`: its value is a function of the tick, not of the moment."""

    makes_up_late_ticks: bool

    def read(self, first_tick: int, timestamps_us: Sequence[int]) -> Readings:
        """The readings of ticks `first_tick`, `first_tick` + 1, … captured at `timestamps_us`.

        A source that does not make up late ticks is asked for one tick at a time. Raises
        SourceError, one line with what is wrong and its mend, when there is no reading.
        """
        ...

    def close(self) -> None:
        """Give up whatever it holds; a read() going on in another thread ends soon."""
        ...
