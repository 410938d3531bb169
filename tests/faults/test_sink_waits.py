"""P6, P7: the sink says when to come again, or who may come."""

import email.utils
import time

import pytest
from crash.node import running
from faults.outages import (
    QUICK,
    assert_mended,
    await_down,
    is_down,
    problem_of,
    stopped_verdict,
    verdict_of,
)
from sinks import answer, delay, guarded, ok
from waiting import wait_until

HOUR = 3600.0
LONG = {"initial_delay": "1h", "max_delay": "1h"}


def date(seconds):
    return email.utils.formatdate(seconds, usegmt=True)


def until_next_probe(node):
    """Seconds from the sink's last failure to the next probe, and the schedule's bound for it."""
    query = "SELECT next_probe_at - max(settled_at), sink.failures FROM sink, batch"
    (asked, failures) = node.rows(f"{query} WHERE batch.status = 'FAILED'")[0]
    return asked, failures


# Ten years off: a date counts from the answer's own Date, whoever's clock is wrong.
SKEWED = time.time() - 10 * 365 * 24 * HOUR
# What the sink says, and how many seconds it is to have peace for at least.
FORMS = {
    429: {
        "seconds": ({"Retry-After": "1"}, 1.0),
        "negative": ({"Retry-After": "-7"}, 0.0),
        "unparsable": ({"Retry-After": "soon"}, 0.0),
        "absurd": ({"Retry-After": "9" * 400}, HOUR),
    },
    503: {
        "a date by a skewed clock": ({"Date": date(SKEWED), "Retry-After": date(SKEWED + 1)}, 1.0),
        "a date that has passed": ({"Retry-After": date(SKEWED)}, 0.0),
        "not a number": ({"Retry-After": "nan"}, 0.0),
        "an absurd date": ({"Retry-After": date(2**37)}, HOUR),
    },
}


@pytest.mark.parametrize("status", FORMS)
def test_retry_after_is_honoured_in_every_form_and_nonsense_is_not(tmp_path, status):
    with running(tmp_path, **QUICK) as (node, sink):
        for name, (headers, asked) in FORMS[status].items():
            node.await_delivered()
            sink.behave(answer(status, **headers))
            await_down(node, str(status))
            wait, failures = until_next_probe(node)
            assert asked <= wait <= max(asked, 0.1 * 2**failures) + 0.1, name
            sink.behave(ok())
            if asked == HOUR:
                # Whoever knows better need not wait.
                assert "it is tried again in" in problem_of(node, str(status))["hint"]
                assert HOUR - 60 < node.status()["sink"]["next_probe_seconds"] <= HOUR
                node.run("reload")
            assert_mended(node)
        node.await_delivered()
        stopped_verdict(node, sink)


def test_a_new_token_mends_401_at_once_without_a_restart(tmp_path):
    """The next probe by the schedule is more than half an hour away."""
    token = tmp_path / "token"
    token.write_text("old\n")
    options = {**QUICK, "retry": LONG, "sink": {"token_file": token}}
    with running(tmp_path, **options) as (node, sink):
        sink.behave(guarded("old"))
        node.await_delivered(10)
        sink.behave(guarded("new"))
        await_down(node, "401 Unauthorized")
        pids = node.pids()
        assert until_next_probe(node)[0] >= HOUR / 2
        assert problem_of(node, "401")["hint"] == "check [sink] token_file"
        # Another that is wrong: one probe, and the hour begins again.
        token.write_text("newer\n")
        wait_until(lambda: node.one("SELECT failures FROM sink") == 2, what="the file is tried")
        node.await_captured(node.captured() + 20)
        assert node.one("SELECT failures FROM sink") == 2
        assert is_down(node)
        token.write_text("new\n")
        assert_mended(node)
        assert node.pids() == pids
        assert verdict_of(node, sink).stored_twice == set()
        assert "Bearer" not in node.log()


def test_delivery_that_cannot_keep_up_is_told_with_what_limits_it_and_what_helps(tmp_path):
    """The sink is UP and takes all, but one reading in a tenth of a second."""
    slow = {"sensor": {"rate": 50}, "sink": {"batch_size": 1}, "process": {"senders": 1}}
    with running(tmp_path, **slow) as (node, sink):
        sink.behave(delay(0.1))
        told = wait_until(
            lambda: [one for one in node.status()["problems"] if "keep up" in one["what"]],
            150,
            "status tells of it",
            node.story,
        )
        assert "a request with 1 reading takes 0.1" in told[0]["what"]
        assert "raise [sink] batch_size" in told[0]["hint"]
        assert node.status()["lag"]["limited_by"] == "batch_size"
        sink.behave(ok())
        node.configure(sink={"batch_size": 100, "url": sink.url})
        node.run("reload")
        node.await_delivered()
        wait_until(lambda: node.status()["lag"] is None, 60, "it is over", node.story)
        stopped_verdict(node, sink)
