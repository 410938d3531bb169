"""What every source of readings can do."""

from collections.abc import Sequence
from typing import Protocol

from sensor_node.core.model import Readings


class Source(Protocol):
    """One sensor. Opening it may take long, or fail, as a read() may."""

    def read(self, first_tick: int, timestamps_us: Sequence[int]) -> Readings:
        """The readings of ticks `first_tick`, `first_tick` + 1, … captured at `timestamps_us`.

        Only a simulated one is asked for more than one tick at a time. Raises SourceError, one line
        with what is wrong and its hint, when there is no reading.
        """
        ...

    def close(self) -> None:
        """Give up whatever it holds; a read() going on in another thread ends soon."""
        ...
