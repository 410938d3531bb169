"""A ring wakes who listens, in this process and in others, and never ends a process."""

import os
import queue
import signal
from contextlib import closing

import pytest

from sensor_node.processes.bell import Bell
from sensor_node.processes.service import Wake

AT_ONCE_SECONDS = 30.0


@pytest.fixture(autouse=True)
def unsignalled():
    before = signal.getsignal(signal.SIGIO)
    yield
    signal.signal(signal.SIGIO, before)


def test_a_ring_wakes_who_listens(tmp_path):
    wake = Wake()
    with closing(Bell(tmp_path)) as ringing, closing(Bell(tmp_path)) as heard:
        heard.listen(wake, commits=True)
        for _ in range(3):
            ringing.tell_commit()
            assert wake.get(timeout=AT_ONCE_SECONDS) == 0
    assert wake.empty()


def test_who_does_not_heed_commits_hears_of_outcomes_alone(tmp_path):
    wake = Wake()
    with closing(Bell(tmp_path)) as ringing, closing(Bell(tmp_path)) as heard:
        heard.listen(wake, commits=False)
        ringing.tell_commit()
        ringing.tell_outcome()
        assert wake.get(timeout=AT_ONCE_SECONDS) == 0
        heard.listen_for_commits(True)
        ringing.tell_commit()
        assert wake.get(timeout=AT_ONCE_SECONDS) == 0
        heard.listen_for_commits(False)
        ringing.tell_commit()
        assert wake.empty()


def test_a_ring_reaches_another_process(tmp_path):
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        wake = Wake()
        with closing(Bell(tmp_path)) as bell:
            bell.listen(wake, commits=True)
            os.write(tell, b"1")
            try:
                wake.get(timeout=AT_ONCE_SECONDS)
            except queue.Empty:
                os._exit(1)
        os._exit(0)
    os.read(told, 1)
    with closing(Bell(tmp_path)) as bell:
        bell.tell_commit()
    assert os.waitpid(child, 0)[1] == 0
    os.close(told)
    os.close(tell)


def test_nobody_is_signalled_once_the_bell_is_taken_down(tmp_path):
    wake = Wake()
    with closing(Bell(tmp_path)) as ringing:
        with closing(Bell(tmp_path)) as heard:
            heard.listen(wake, commits=True)
        signal.signal(signal.SIGIO, signal.SIG_DFL)  # would end this process
        ringing.tell_commit()
    assert wake.empty()


def test_a_ring_when_the_file_is_gone_is_lost_and_no_error(tmp_path):
    with closing(Bell(tmp_path)) as bell:
        (tmp_path / "bell" / "bell").unlink()
        bell.tell_commit()


@pytest.mark.parametrize("what", ["bell", "bell/bell"])
def test_a_link_in_its_place_is_refused_and_not_followed(tmp_path, what):
    elsewhere = tmp_path / "elsewhere"
    if what == "bell":
        elsewhere.mkdir()
    else:
        (tmp_path / "bell").mkdir()
        elsewhere.write_text("precious")
    (tmp_path / what).symlink_to(elsewhere)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError):
        Bell(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
    assert elsewhere.is_dir() or elsewhere.read_text() == "precious"
