"""What the roles that send to the sink open in the same way."""

from typing import TYPE_CHECKING

from sensor_node.delivery.batch_sender import BatchSender
from sensor_node.processes.context import ServiceContext
from sensor_node.storage.repository import SensorDataSQLRepository

if TYPE_CHECKING:
    from sensor_node.delivery.client import HttpTelemetryClient


def open_batch_sender(context: ServiceContext) -> tuple[SensorDataSQLRepository, BatchSender]:
    """The database, and what sends its batches. Raises StorageUnavailable.

    With at-most-once a claim must outlast a power cut, or its batch would be sent again.
    """
    config, clock = context.config, context.clock
    repository = context.open_repository(power_safe=config.sink.at_most_once)

    def connect() -> "HttpTelemetryClient":
        # Imported only by a process that sends: the HTTP library takes memory.
        from sensor_node.delivery.client import HttpTelemetryClient

        return HttpTelemetryClient(config.sink, clock)

    return repository, BatchSender(config, repository, connect, clock, context.bell.tell_outcome)
