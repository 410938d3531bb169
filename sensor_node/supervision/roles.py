"""The roles of the appliance's processes: one row each, in the order in which they are started."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from sensor_node.config.loader import Config
from sensor_node.processes.context import ServiceContext
from sensor_node.processes.service import Service


@dataclass(frozen=True, slots=True)
class Role:
    """What the supervisor and a new child must know about one kind of process.

    Only the row and the module in `service` know a role by its name.
    """

    name: str
    # "module:function". Nothing else imports it, so that the supervisor's code needs no database.
    service: str
    # When memory is short, the kernel ends processes with a higher score first: 0 to 1000.
    oom_score: int
    # When the appliance stops, roles with a lower number end before any with a higher one.
    stop_order: int
    # For ending when asked to; None: as long as [process] stop_timeout.
    stop_seconds: float | None
    # Sends to the sink: it listens to the bell, and a step may last a request longer.
    uses_network: bool = False
    # A commit wakes it too, and not only what became of a batch. Counts only with `uses_network`.
    hears_commits: bool = False
    # The one role that captures. After an unclean stop it opens the database alone. If its
    # configuration is wrong, or it does not end well, the whole appliance does so as well.
    captures: bool = False
    # The most processes of this role. If there may be several, each has a number.
    most: int = 1
    # How many of `most` the configuration wants.
    count: Callable[[Config], int] = lambda config: 1

    def names(self, config: Config) -> list[str]:
        """The names of its processes: retrier; or sender-1, sender-2, …"""
        if self.most == 1:
            return [self.name]
        return [f"{self.name}-{number}" for number in range(1, self.count(config) + 1)]

    def seconds_to_stop(self, config: Config) -> float:
        """The seconds from SIGTERM to SIGKILL."""
        return config.process.stop_timeout if self.stop_seconds is None else self.stop_seconds

    def load_service(self) -> Callable[[ServiceContext], Service]:
        """Import the function that opens its service."""
        module, function = self.service.split(":")
        open_service: Callable[[ServiceContext], Service]
        open_service = getattr(import_module(module), function)
        return open_service

    def open_service(self, context: ServiceContext) -> Service:
        """Raises StorageUnavailable or ConfigError, as the service's own function does."""
        return self.load_service()(context)


ROWS = (
    Role(
        "generator",
        "sensor_node.processes.sensor_service:open_service",
        oom_score=0,
        stop_order=1,  # first, so that nothing new comes
        stop_seconds=5.0,
        captures=True,
    ),
    Role(
        "sender",
        "sensor_node.processes.delivery_service:open_service",
        oom_score=500,
        stop_order=2,
        stop_seconds=None,  # it may finish the request in hand
        uses_network=True,
        hears_commits=True,
        most=64,
        count=lambda config: config.process.senders,
    ),
    Role(
        "retrier",
        "sensor_node.processes.retry_service:open_service",
        oom_score=500,
        stop_order=2,
        stop_seconds=None,
        uses_network=True,
    ),
    Role(
        "housekeeper",
        "sensor_node.processes.housekeeping_service:open_service",
        oom_score=100,
        stop_order=3,  # last, since it notes whether the stop was orderly
        stop_seconds=5.0,
    ),
)
ROLES = {role.name: role for role in ROWS}


def children(config: Config) -> dict[str, Role]:
    """The processes that the configuration wants: name to role, in the order of starting."""
    return {name: role for role in ROLES.values() for name in role.names(config)}


def most_children() -> int:
    """As many as any configuration can want."""
    return sum(role.most for role in ROLES.values())


def stop_groups() -> list[list[Role]]:
    """The roles in the order in which they stop; those of a group stop at the same time."""
    orders = sorted({role.stop_order for role in ROLES.values()})
    return [[role for role in ROLES.values() if role.stop_order == order] for order in orders]
