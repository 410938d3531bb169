"""requeue: sends messages again that a person has decided on."""

import contextlib

from sensor_node.config.loader import Config
from sensor_node.control import exits, in_force
from sensor_node.control.inspect import open_for_reading
from sensor_node.control.times import counted
from sensor_node.core.clock import Moment, SystemClock
from sensor_node.core.errors import SensorNodeError
from sensor_node.storage.queue import streams
from sensor_node.storage.repository import SensorDataSQLRepository


def requeue(config: Config, ids: list[str], *, dead: bool, in_doubt: bool) -> int:
    """The messages of these ids; without ids, all that are DEAD, IN_DOUBT or either."""
    now = SystemClock().now()
    statuses = ["DEAD"] * dead + ["IN_DOUBT"] * in_doubt
    return _requeue_all(config, statuses, now) if statuses else _requeue_ids(config, ids, now)


def _requeue_ids(config: Config, texts: list[str], now: Moment) -> int:
    """DEAD, IN_DOUBT or SENT -> FAILED, due now. Raises SensorNodeError for all that cannot be."""
    with open_for_reading(config) as connection:
        ids = {text: streams.local_id(connection, text) for text in texts}
    unknown = [text for text, message_id in ids.items() if message_id is None]
    refused = []
    with open_for_writing(config) as repository:
        for text, message_id in ids.items():
            if message_id and not repository.requeue(message_id, message_id, now.wall):
                refused.append(text)
    print(f"requeued {counted(len(ids) - len(unknown) - len(refused), 'message')}")
    complaints = [f"no such message: {', '.join(unknown)}"] if unknown else []
    complaints += [f"neither DEAD, IN_DOUBT nor SENT: {', '.join(refused)}"] if refused else []
    if complaints:
        raise SensorNodeError("; ".join(complaints))
    return exits.OK


def _requeue_all(config: Config, statuses: list[str], now: Moment) -> int:
    """All messages of the statuses -> FAILED, a batch at a time: the node never waits long."""
    count = 0
    with open_for_writing(config) as repository:
        for status in statuses:
            after = 0
            while batch_range := repository.next_parked(status, after):
                count += repository.requeue(batch_range[0], batch_range[1], now.wall)
                after = batch_range[0]
    print(f"requeued {counted(count, 'message')}")
    return exits.OK


def open_for_writing(config: Config) -> contextlib.closing[SensorDataSQLRepository]:
    """The database for writing. It must exist: a command makes none."""
    in_force.insist_on_one_version(config)
    with open_for_reading(config):
        pass
    return contextlib.closing(SensorDataSQLRepository(config.storage.path))
