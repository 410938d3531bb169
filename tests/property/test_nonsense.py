"""Whatever the world writes into files, headers and answers: a value, or one line that says why."""

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st
from torture import fuzz

PACKAGED = fuzz.PACKAGED.read_text()
bits = st.sampled_from(fuzz.BITS)
pieces = st.lists(st.one_of(bits, st.text(max_size=8)), max_size=8).map("".join)
headers = st.lists(st.one_of(bits, st.sampled_from(fuzz.DATES)), max_size=10).map("".join)
answers = st.lists(
    st.sampled_from(fuzz.ANSWERS).map(str.encode) | st.binary(max_size=20), max_size=8
)
places = st.lists(st.integers(0, len(PACKAGED)), min_size=1, max_size=6).map(sorted)


@settings(deadline=None, max_examples=150)
@given(places, st.lists(pieces, min_size=7, max_size=7), st.binary(max_size=3))
@example([0], ["[\x1b[31m]\n"], b"")
@example([len(PACKAGED)], ["", "\n[sink]\nti\x1b]0;x\x07meout = 1s\n"], b"")
def test_any_configuration_is_taken_or_refused_in_lines_fit_for_a_terminal(cuts, added, tail):
    bounds = itertools.pairwise([0, *cuts, len(PACKAGED)])
    kept = [PACKAGED[first:last] for first, last in bounds]
    text = "".join(itertools.chain.from_iterable(itertools.zip_longest(added, kept, fillvalue="")))
    fuzz.check_config(text.encode(errors="replace") + tail)


@given(headers | st.text(max_size=40), headers | st.text(max_size=40))
@example("9" * 5000, "")
@example("0\x1f", "")
@example("Mon, 23 Nov 99999 07:44:38 GMT", "Mon, 23 Nov 2026 07:44:38 +9999")
def test_any_retry_after_is_no_wait_or_one_of_at_most_an_hour(text, date):
    fuzz.check_retry_after(text, date)


@settings(deadline=None, max_examples=100)
@given(answers.map(b"".join))
def test_any_answer_is_an_outcome_in_one_line(body):
    fuzz.check_answer(body)


@given(st.binary(max_size=60) | pieces.map(lambda text: text.encode(errors="replace")))
@example(b'{"value": ' + b"[" * 100_000)
def test_any_output_of_a_command_is_readings_or_one_line(output):
    fuzz.check_command(output)
