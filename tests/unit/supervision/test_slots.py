"""A slot carries a child's heartbeat to the supervisor, through a map that a fork shares."""

import os
import time

import pytest

from sensor_node.core.errors import STORAGE_REASONS
from sensor_node.storage.engine.sqlite_errors import LOCK_REASONS, REASONS
from sensor_node.supervision.slots import MESSAGE, SLOT_BYTES, make_slots


@pytest.fixture
def slot():
    [slot] = make_slots(1)
    slot.reset()
    return slot


def test_a_new_one_says_nothing_but_that_it_has_just_begun(slot) -> None:
    heartbeat = slot.heartbeat()
    assert (heartbeat.waiting_since, heartbeat.holding_since) == (None, None)
    assert (heartbeat.ready, heartbeat.trouble, heartbeat.message) == (False, "", "")
    assert 0 <= time.monotonic() - heartbeat.beat < 10
    assert not slot.is_final()


def test_its_words_are_aligned_whichever_it_is(slot) -> None:
    """Else one could be seen half written; so could one of more than 32 bits, on some boards."""
    assert slot._words.itemsize == 4
    assert SLOT_BYTES % 4 == 0
    assert MESSAGE % 4 == 0


def test_a_time_outlives_the_end_of_its_word(slot, monkeypatch) -> None:
    end = (2**32 - 5) * 1_000_000
    monkeypatch.setattr(time, "monotonic_ns", lambda: end)
    slot.holding()
    held = slot.heartbeat().holding_since
    monkeypatch.setattr(time, "monotonic_ns", lambda: end + 8 * 1_000_000)
    assert slot.heartbeat().holding_since == held
    slot.beat()
    assert slot.heartbeat().beat == pytest.approx(held + 0.008)


def test_it_shows_where_a_process_stands_before_the_write_lock(slot) -> None:
    slot.waiting()
    assert slot.heartbeat().waiting_since is not None
    assert slot.heartbeat().holding_since is None
    slot.holding()
    assert slot.heartbeat().waiting_since is None
    assert slot.heartbeat().holding_since is not None
    slot.released()
    assert slot.heartbeat().waiting_since is None
    assert slot.heartbeat().holding_since is None


@pytest.mark.parametrize("reason", STORAGE_REASONS)
def test_it_shows_each_trouble_with_the_database_until_it_is_over(slot, reason) -> None:
    slot.trouble(reason)
    assert slot.heartbeat().trouble == reason
    since = slot.heartbeat().trouble_since
    assert 0 <= time.time() - since < 10
    slot.trouble(reason)
    assert slot.heartbeat().trouble_since == since, "it goes on"
    slot.trouble("")
    assert (slot.heartbeat().trouble, slot.heartbeat().trouble_since) == ("", 0)


def test_whatever_keeps_the_database_from_being_used_has_a_place_in_it() -> None:
    assert {*REASONS.values(), *LOCK_REASONS.values()} <= set(STORAGE_REASONS)


@pytest.mark.parametrize("words", ["", "x", "[sink] token_file: want text", "é" * 10])
def test_it_keeps_last_words(slot, words) -> None:
    slot.leave_message(words)
    assert slot.heartbeat().message == words


def test_last_words_that_are_too_long_are_cut_and_touch_no_other_slot() -> None:
    first, second = make_slots(2)
    second.reset()
    before = second.heartbeat()
    first.leave_message("é" * SLOT_BYTES)
    assert len(first.heartbeat().message.encode()) <= SLOT_BYTES - MESSAGE + 2
    assert first.heartbeat().message.startswith("é" * 400)
    assert second.heartbeat() == before


def test_shorter_last_words_leave_nothing_of_longer_ones(slot) -> None:
    slot.leave_message("a long story")
    slot.leave_message("short")
    assert slot.heartbeat().message == "short"


def test_each_is_a_childs_own() -> None:
    slots = make_slots(67)
    for number, slot in enumerate(slots):
        slot.reset()
        slot.leave_message(str(number))
    slots[3].ready()
    slots[3].make_final()
    assert [slot.heartbeat().message for slot in slots] == [str(number) for number in range(67)]
    assert [slot.heartbeat().ready for slot in slots] == [number == 3 for number in range(67)]
    assert [slot.is_final() for slot in slots] == [number == 3 for number in range(67)]


def test_a_reset_forgets_what_the_last_process_said(slot) -> None:
    slot.ready()
    slot.waiting()
    slot.holding()
    slot.trouble("disk full")
    slot.leave_message("bye")
    slot.make_final()
    slot.reset()
    heartbeat = slot.heartbeat()
    assert (heartbeat.ready, heartbeat.trouble, heartbeat.message) == (False, "", "")
    assert (heartbeat.waiting_since, heartbeat.holding_since) == (None, None)
    assert not slot.is_final()


def test_forgiving_begins_all_measures_of_time_anew_and_keeps_the_rest(slot, monkeypatch) -> None:
    slot.holding()
    slot.ready()
    before = slot.heartbeat()
    later = time.monotonic_ns() + 10_000_000
    monkeypatch.setattr(time, "monotonic_ns", lambda: later)
    slot.forgive()
    after = slot.heartbeat()
    assert after.holding_since > before.holding_since
    assert after.beat >= before.beat
    assert (after.waiting_since, after.ready) == (None, True)


def test_what_a_forked_child_writes_its_parent_reads(slot) -> None:
    pid = os.fork()
    if pid == 0:
        slot.ready()
        slot.holding()
        slot.leave_message("from the child")
        os._exit(0)
    os.waitpid(pid, 0)
    heartbeat = slot.heartbeat()
    assert (heartbeat.ready, heartbeat.message) == (True, "from the child")
    assert heartbeat.holding_since is not None


def test_a_reader_never_sees_half_a_beat(slot) -> None:
    """A zero in between would be a child that has not moved since the machine was started."""
    pid = os.fork()
    if not pid:
        for _ in range(200_000):
            slot.beat()
        os._exit(0)
    first = slot.heartbeat().beat
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        assert slot.heartbeat().beat >= first
