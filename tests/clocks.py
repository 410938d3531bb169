"""A clock that stands until a test turns it, each of its hands by itself if need be."""

from sensor_node.core.clock import Moment

WALL = 1_795_419_878.0  # 2026-11-23T07:44:38Z


class ManualClock:
    """`monotonic`, `wall` and `boottime` in seconds; set one to turn that hand alone."""

    def __init__(self, wall: float = WALL) -> None:
        self.monotonic = 1000.0
        self.wall = wall
        self.boottime = 1000.0

    def now(self) -> Moment:
        return Moment(self.monotonic, self.wall, self.boottime)

    def advance(self, seconds: float) -> Moment:
        """Time passes: all hands move. Returns the new moment."""
        self.monotonic += seconds
        self.wall += seconds
        self.boottime += seconds
        return self.now()

    def suspend(self, seconds: float) -> Moment:
        """The machine sleeps: its monotonic clock stands. Returns the new moment."""
        self.wall += seconds
        self.boottime += seconds
        return self.now()
