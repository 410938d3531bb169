"""P2, P6, P7: a sink that answers badly, too late or not at all is borne, named and waited for."""

import pytest
from crash.node import running
from faults.outages import (
    QUICK,
    assert_borne,
    assert_endures,
    assert_mended,
    await_down,
    is_down,
    kill_between_requests,
    verdict_of,
)
from sinks import (
    answer,
    captive_portal,
    close,
    drip,
    endless,
    flap,
    hang,
    ok,
    raw,
    reset,
    reset_half_read,
    reset_unread,
    unfinished,
)
from waiting import wait_until

CUT = "connection closed without a whole answer"
LATE = "timed out after 0.4s"
NOT_HTTP = "what came is not an HTTP answer"
PROTOCOL = "http or https? the port?"
REDIRECTS = "the sink redirects to http://elsewhere.example/: put that into [sink] url"
ELSEWHERE = {"Location": "http://elsewhere.example/"}

BROKEN = {
    "reset before the body": (reset_unread(), CUT),
    "reset in the middle of the body": (reset_half_read(), CUT),
    "reset after the data was stored": (reset(stored=True), CUT),
    "closed after the data was stored": (close(stored=True), CUT),
    "garbage": (raw("SSH-2.0-OpenSSH_9.2\r\n", stored=False), NOT_HTTP, PROTOCOL),
    "hangs, the data stored": (hang(store="before"), LATE),
    "drips headers": (drip(0.1, head=True), LATE),
    "an error, the data stored": (answer(500, stored=True), "500 Internal Server Error"),
    "an error with an endless page": (endless(503, stored=False), "503 Service Unavailable"),
    "an error with a torn page": (unfinished(504, stored=True), "504 Gateway Timeout"),
}
MISCONFIGURED = {
    "a captive portal": (captive_portal(), "captive portal?", "log in to the network"),
    "302": (answer(302, **ELSEWHERE), "302 Found", REDIRECTS),
    "308 to nowhere": (answer(308), "308 Permanent Redirect", "check [sink] url"),
    "401": (answer(401), "401 Unauthorized", "set [sink] token_file"),
    "404": (answer(404), "404 Not Found", "check [sink] url"),
    "407": (answer(407), "407 Proxy Authentication Required", "check [sink] proxy"),
    "418": (answer(418), "418 I'm a Teapot", "ask who runs the sink"),
}


@pytest.mark.parametrize("faults", [BROKEN, MISCONFIGURED], ids=["broken", "misconfigured"])
def test_whatever_the_sink_does_is_borne_named_and_waited_for(tmp_path, faults):
    with running(tmp_path, **QUICK) as (node, sink):
        node.await_delivered(5)
        assert_endures(node, sink, faults)
        verdict = verdict_of(node, sink)
    stored_first = any("stored" in name for name in faults)
    assert bool(verdict.stored_twice) == stored_first
    # A redirected POST would have come as a GET.
    assert {request.method for request in sink.requests()} <= {"POST", ""}


def test_a_sink_that_refuses_connections_is_waited_for(tmp_path):
    with running(tmp_path, **QUICK) as (node, sink):
        node.await_delivered(5)
        kill_between_requests(node, sink)
        assert_borne(node, "connection refused")
        sink.start()
        assert_mended(node)
        assert verdict_of(node, sink).stored_twice == set()


def test_the_bodies_of_good_answers_hold_nothing_up_for_longer_than_the_timeout(tmp_path):
    """The verdict is the status: a body that drips, never ends or is torn is not waited for."""
    with running(tmp_path, **QUICK) as (node, sink):
        for behaviour in (drip(0.1, head=False), endless(), unfinished()):
            sink.behave(behaviour)
            met = sink.request_count()
            wait_until(lambda met=met: sink.request_count() > met + 1, what="it is met")
            node.await_delivered()
        assert not is_down(node)
        assert node.events("sink down") == []
        assert verdict_of(node, sink).stored_twice == set()


def test_a_kept_connection_dropped_just_as_it_is_used_again_is_no_outage(tmp_path):
    with running(tmp_path, **QUICK, process={"senders": 1}) as (node, sink):
        for dropped in (reset_unread(), close(stored=True), reset_half_read()):
            node.await_delivered()
            kept = sink.requests()[-1].connection
            sink.script(dropped)
            node.await_delivered(node.captured() + 3)
            (met,) = [one for one in sink.requests() if one.behaviour == dropped]
            assert met.connection == kept
        assert node.events("sink down") == []
        verdict_of(node, sink)


def test_interim_answers_before_the_final_one_are_passed_over(tmp_path):
    final = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with running(tmp_path, **QUICK) as (node, sink):
        for interim in ("100 Continue", "102 Processing", "103 Early Hints\r\nLink: </a>"):
            sink.behave(raw(f"HTTP/1.1 {interim}\r\n\r\n{final}"))
            node.await_delivered(node.captured() + 20)
        assert node.events("sink down") == []
        verdict_of(node, sink)


def test_an_answer_without_an_end_costs_a_second_and_delivery_keeps_up(tmp_path):
    """Neither a length nor an end of the connection; and one hidden behind a malformed header."""
    options = {"sensor": {"rate": 20}, "sink": {"timeout": "20s"}}
    with running(tmp_path, **options) as (node, sink):
        for head in ("", "Not a header\r\nContent-Length: 0\r\n"):
            sink.behave(raw(f"HTTP/1.1 200 OK\r\n{head}\r\n"))
            node.await_delivered(node.captured() + 60)
        assert node.events("sink down") == []
        sink.behave(ok())
        verdict_of(node, sink)


def test_a_sink_that_flaps_every_second_gets_everything(tmp_path):
    with running(tmp_path, **QUICK) as (node, sink):
        sink.behave(flap(1.0))
        for _ in range(2):
            await_down(node, "503")
            wait_until(lambda: not is_down(node), what="the sink is UP for a second")
        node.await_delivered(60)
        sink.behave(ok())
        assert_mended(node)
        assert verdict_of(node, sink).stored_twice == set()
