"""The same package on the next Debian, if its archive can be reached."""

from pathlib import Path

import pytest
import roots
from box import box

SUITE = "trixie"


def test_it_installs_and_delivers_on_trixie(deb: Path) -> None:
    try:
        roots.pristine(suite=SUITE)
    except RuntimeError as error:
        pytest.skip(f"no {SUITE} from this machine's sources: {str(error).splitlines()[-1]}")
    with box(SUITE, deb, suite=SUITE) as made:
        print(made.run("python3 --version; systemctl --version | head -n 1").stdout)
        assert made.state() == "inactive"
        made.start_sink()
        made.configure(
            "[sensor:temperature]\nrate = 20\n[sensor:cpu]\nsource = host\nmetric = cpu\n"
        )
        made.ctl("start")
        made.await_captured(40)
        made.ctl("status")
        assert made.assert_nothing_lost() >= 40
