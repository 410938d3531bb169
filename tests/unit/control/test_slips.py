"""What a configuration says and almost surely does not mean is noted by `check`."""

import pytest

from sensor_node.config.loader import load_config
from sensor_node.control import slips


def notes(tmp_path, text: str) -> list[str]:
    file = tmp_path / "config.ini"
    file.write_text(text)
    return [note.replace(f"{file}: ", "") for note in slips.find(load_config(file))]


QUOTED = "the quotes are part of the value"
DIGITS = "write it with the digits 0 to 9 alone"


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("[node]\nid = 'edge-1'", f"[node] id = 'edge-1': {QUOTED}"),
        ('[storage]\npath = "/data/x.db"', f'[storage] path = "/data/x.db": {QUOTED}'),
        ("[sink]\nbatch_size = 1_000", f"[sink] batch_size = 1_000: is taken as 1000; {DIGITS}"),
        ("[sink]\nbatch_size = ١٠", f"[sink] batch_size = ١٠: is taken as 10; {DIGITS}"),
        ("[sink]\ntimeout = ３s", f"[sink] timeout = ３s: is taken as 3; {DIGITS}"),
        (
            "[sensor: boiler]",
            "[sensor: boiler]: the sensor's name has a blank at its beginning or end",
        ),
    ],
)
def test_a_slip_is_noted(tmp_path, text, note) -> None:
    assert notes(tmp_path, f"[sensor:room]\n{text}\n") == [note]


@pytest.mark.parametrize(
    "text",
    [
        "[node]\nid = o'hara's",
        '[node]\nid = "',
        "[node]\nid = １号_2",
        "[sensor:b]\nsource = command\ncommand = '/opt/my probe' 'boiler 1'",
        "[sink]\nbatch_size = 1000\nmax_rate = 2.5",
    ],
)
def test_what_may_be_meant_is_not(tmp_path, text) -> None:
    assert notes(tmp_path, f"[sensor:room]\n{text}\n") == []


def test_what_lies_among_the_drop_ins_and_is_not_read_is_named(tmp_path) -> None:
    place = tmp_path / "config.d"
    place.mkdir()
    for name in ("x.ini~", "y.conf", ".hidden", "._x.ini", "z.ini"):
        (place / name).write_text("")
    assert notes(tmp_path, "[sensor:room]\n") == [
        f"{place / name}: is not read, as its name does not end in .ini"
        for name in ("x.ini~", "y.conf")
    ]
