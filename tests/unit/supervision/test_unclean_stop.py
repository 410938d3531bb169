"""After a run that died, the generator opens the database alone, and looks at it."""

import pytest

from sensor_node.config.loader import load_config
from sensor_node.supervision.lock_keeper import LockKeeper
from sensor_node.supervision.supervisor import Supervisor
from sensor_node.supervision.systemd import Notifier


@pytest.fixture
def supervise(tmp_path):
    """What the supervisor thinks of a database beside which these files, of these sizes, lie."""
    (tmp_path / "config.ini").write_text("[sensor:room]\n")
    config = load_config(tmp_path / "config.ini")
    config.state_directory.mkdir()

    def make(**leftovers):
        for end, size in leftovers.items():
            file = config.storage.path.with_name(f"{config.storage.path.name}-{end}")
            file.write_bytes(bytes(size))
        made.append(Supervisor(config, LockKeeper(config), Notifier()))
        return made[-1]

    made: list[Supervisor] = []
    yield make
    for supervisor in made:
        supervisor._wake_reader.close()
        supervisor._wake_writer.close()
        supervisor._lock_keeper.close()


def waiting(supervisor):
    return {child.role.name for child in supervisor._children if supervisor._is_held_back(child)}


@pytest.mark.parametrize(
    "leftovers",
    [{}, {"wal": 0}, {"wal": 0, "shm": 32768}],
    ids=["nothing", "an empty WAL", "what a reader leaves"],
)
def test_an_orderly_stop_holds_nobody_up(supervise, leftovers) -> None:
    assert waiting(supervise(**leftovers)) == set()


@pytest.mark.parametrize(
    "leftovers",
    [{"wal": 1000}, {"wal": 1000, "shm": 32768}, {"shm": 32768}],
    ids=["a WAL", "a WAL and its index", "an index whose WAL was taken away"],
)
def test_the_generator_comes_first(supervise, leftovers) -> None:
    assert waiting(supervise(**leftovers)) == {"sender", "retrier", "housekeeper"}


@pytest.mark.parametrize("event", ["checked", "trouble", "death"])
def test_the_others_wait_for_no_more_than_its_first_try(supervise, event) -> None:
    supervisor = supervise(wal=1000)
    generator = supervisor._children[0]
    if event == "checked":
        generator.slot.checked()
    elif event == "trouble":
        generator.slot.trouble("locked by another program")
    else:
        generator.restarts += 1
    assert waiting(supervisor) == set()
    generator.slot.reset()
    generator.restarts = 0
    assert waiting(supervisor) == set()
