"""P5: the log has a limit, and cutting it disturbs none of the processes that write to it."""

import contextlib
import os

from sensor_node.supervision.logfile import KEPT, MOST_BYTES, log_file, rotate


@contextlib.contextmanager
def standard_error(file):
    """As `start` opens it: appended to, and shared by all children."""
    before = os.dup(2)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def rotate_into(file, config):
    with standard_error(file):
        rotate(config)


def older(config, number):
    return config.state_directory / f"sensor-node.log.{number}"


def fill(config, letter):
    log_file(config).write_text(letter * MOST_BYTES)


def test_a_log_that_is_not_full_is_left_alone(config) -> None:
    log_file(config).write_text("x" * (MOST_BYTES - 1))
    rotate_into(log_file(config), config)
    assert log_file(config).stat().st_size == MOST_BYTES - 1
    assert not older(config, 1).exists()


def test_a_full_log_is_copied_and_begun_anew(config) -> None:
    fill(config, "a")
    rotate_into(log_file(config), config)
    assert log_file(config).stat().st_size == 0
    assert older(config, 1).read_text() == "a" * MOST_BYTES


def test_a_child_that_has_it_open_writes_on_at_its_new_beginning(config) -> None:
    """A renamed file would be written to for ever; a hole would be left without O_APPEND."""
    fill(config, "a")
    with log_file(config).open("ab", buffering=0) as child:
        rotate_into(log_file(config), config)
        child.write(b"from the child\n")
    assert log_file(config).read_text() == "from the child\n"


def test_three_files_are_kept_at_most(config) -> None:
    for letter in "abcdef":
        fill(config, letter)
        rotate_into(log_file(config), config)
    assert KEPT == 2
    assert older(config, 1).read_text()[0] == "f"
    assert older(config, 2).read_text()[0] == "e"
    assert len(list(config.state_directory.iterdir())) == 3


def test_standard_error_that_is_not_our_file_is_never_cut(config, tmp_path) -> None:
    fill(config, "a")
    journal = tmp_path / "somebody-elses.log"
    journal.write_text("b" * MOST_BYTES)
    rotate_into(journal, config)
    assert journal.stat().st_size == log_file(config).stat().st_size == MOST_BYTES


def test_a_log_that_was_deleted_is_no_error(config) -> None:
    fill(config, "a")
    with standard_error(log_file(config)):
        log_file(config).unlink()
        rotate(config)
    assert not older(config, 1).exists()


def test_a_disk_without_room_for_the_copy_ends_nothing_and_loses_nothing(
    config, monkeypatch
) -> None:
    for letter in "ab":
        fill(config, letter)
        rotate_into(log_file(config), config)

    def full(source, copy):
        copy.write(b"half")
        raise OSError(28, "No space left on device")

    fill(config, "c")
    monkeypatch.setattr("shutil.copyfileobj", full)
    for _ in range(3):
        rotate_into(log_file(config), config)
    kept = [log_file(config), older(config, 1), older(config, 2)]
    assert [file.read_text()[0] for file in kept] == ["c", "b", "a"]
    assert len(list(config.state_directory.iterdir())) == 3
