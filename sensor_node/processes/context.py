"""What a worker process gives its role's open_service()."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sensor_node.config.loader import Config
from sensor_node.core.clock import Clock
from sensor_node.processes.bell import Bell, NoBell

if TYPE_CHECKING:
    from sensor_node.storage.repository import SensorDataSQLRepository


class OpenRepository(Protocol):
    def __call__(self, *, power_safe: bool) -> "SensorDataSQLRepository":
        """Open the database for this process. `power_safe`: a commit outlasts a power cut.

        Raises StorageUnavailable.
        """


@dataclass(frozen=True, slots=True)
class ServiceContext:
    role: str  # as it stands in owner ids
    config: Config
    clock: Clock
    open_repository: OpenRepository
    bell: Bell | NoBell
    wake: Callable[[], None]  # ends the process's present wait; any thread may call it
    is_final: Callable[[], bool]  # whether the whole appliance stops, not this process alone
    supervisor: int  # pid
    run_started: float  # when the supervisor started, in monotonic seconds
