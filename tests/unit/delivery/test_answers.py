"""What an answer means: every row of the table in docs/architecture.md, through requests."""

from dataclasses import replace

import pytest
import responses
from hypothesis import example, given
from hypothesis import strategies as st

from sensor_node.config.loader import SinkConfig
from sensor_node.config.schema import options_of
from sensor_node.core.clock import Moment
from sensor_node.core.model import Verdict
from sensor_node.delivery.answers import SinkResponse, interpret, seconds_until
from sensor_node.delivery.client import HttpTelemetryClient
from sensor_node.delivery.strangers import ENGINES

URL = "http://sink.example/telemetry"
DEFAULTS = {
    option.name: option.kind.parse(option.default) for option in options_of("sink").values()
}
SINK = SinkConfig(**{**DEFAULTS, "url": URL})
WALL = 1_795_419_878.0  # 2026-11-23T07:44:38Z
DATE = "Mon, 23 Nov 2026 07:44:38 GMT"
TWO_MINUTES_LATER = "Mon, 23 Nov 2026 07:46:38 GMT"

DELIVERED, REFUSED = Verdict.DELIVERED, Verdict.REFUSED
TRY_LATER, MISCONFIGURED = Verdict.TRY_LATER, Verdict.MISCONFIGURED


class StoppedClock:
    def now(self):
        return Moment(1000.0, WALL, 1000.0)


@pytest.fixture
def ask():
    """Post once to a sink that gives the answer described."""
    clients = []

    def post(status, *, body="", headers=None, content_type="text/plain", sink=SINK):
        client = HttpTelemetryClient(sink, StoppedClock())
        clients.append(client)
        with responses.RequestsMock() as mock:
            mock.add(
                "POST", URL, status=status, body=body, headers=headers, content_type=content_type
            )
            return client.post(b"[]", '"key"')

    yield post
    for client in clients:
        client.close()


@pytest.mark.parametrize("status", [200, 201, 202, 204, 207, 299])
def test_any_2xx_is_delivered(ask, status):
    outcome = ask(status)
    assert outcome.verdict is DELIVERED
    assert outcome.answered
    assert outcome.fate_known


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_objection_to_the_readings_is_refused_and_surely_not_stored(ask, status):
    outcome = ask(status, body="bad value")
    assert outcome.verdict is REFUSED
    assert outcome.answered
    assert outcome.fate_known
    assert outcome.detail.startswith(f"{status} ")
    assert outcome.detail.endswith(": bad value")


@pytest.mark.parametrize(
    ("status", "fate_known"),
    [
        *[(408, True), (425, True), (429, True)],
        *[(409, False), (500, False), (501, False), (502, False), (503, False), (504, False)],
        *[(507, False), (511, False), (599, False)],
    ],
)
def test_a_sink_in_trouble_is_tried_later(ask, status, fate_known):
    outcome = ask(status)
    assert outcome.verdict is TRY_LATER
    assert outcome.answered
    assert outcome.fate_known is fate_known
    assert outcome.retry_after is None
    assert outcome.overloaded is (status in (429, 503))
    assert outcome.hint == ""


@pytest.mark.parametrize(
    ("status", "fate_known"),
    [
        *[(300, True), (301, True), (302, True), (303, True), (304, True), (307, True)],
        *[(308, True), (399, True), (401, True), (403, True), (404, True), (405, True)],
        *[(407, True), (411, True), (415, True), (431, True)],
        *[(402, False), (406, False), (410, False), (418, False), (421, False), (451, False)],
        *[(499, False)],
    ],
)
def test_what_only_a_person_can_mend_is_misconfigured_and_says_how(ask, status, fate_known):
    outcome = ask(status)
    assert outcome.verdict is MISCONFIGURED
    assert outcome.answered
    assert outcome.fate_known is fate_known
    assert outcome.hint


@pytest.mark.parametrize(
    ("status", "option"),
    [
        (401, "token_file"),
        (403, "token_file"),
        (404, "[sink] url"),
        (405, "[sink] url"),
        (407, "[sink] proxy"),
        (415, "[sink] format and compression"),
        (418, "[sink] refused_statuses"),
    ],
)
def test_the_hint_names_the_option(ask, status, option):
    assert option in ask(status).hint


def test_the_hint_of_401_names_what_this_node_is_configured_with():
    answer = SinkResponse(401, "Unauthorized")
    token = interpret(answer, replace(SINK, token_file="/t"), WALL).hint
    basic = interpret(answer, replace(SINK, username="u", password_file="/p"), WALL).hint
    assert token == "check [sink] token_file"
    assert basic == "check [sink] username and password_file"


@pytest.mark.parametrize("status", [102, 103, 199, 600, 999])
def test_a_status_that_is_no_answer_says_nothing(status):
    outcome = interpret(SinkResponse(status, "?"), SINK, WALL)
    assert outcome.verdict is TRY_LATER
    assert not outcome.answered
    assert not outcome.fate_known


def test_success_statuses_and_refused_statuses_change_the_table(ask):
    sink = replace(
        SINK, success_statuses=frozenset({200, 409}), refused_statuses=frozenset({200, 404})
    )
    assert ask(200, sink=sink).verdict is DELIVERED  # success comes first
    assert ask(409, sink=sink).verdict is DELIVERED
    assert ask(409, sink=sink).fate_known
    assert ask(404, sink=sink).verdict is REFUSED
    assert ask(400, sink=sink).verdict is MISCONFIGURED
    unexpected = ask(202, sink=sink)
    assert unexpected.verdict is MISCONFIGURED
    assert not unexpected.fate_known
    assert "success_statuses" in unexpected.hint


@pytest.mark.parametrize(
    "page",
    [
        "<!doctype html><title>Log in</title>",
        "<HTML lang=en>",
        "\ufeff \r\n\t<!Doctype Html>",
        "<!-- a portal's own mark --><p>",
        '<?xml version="1.0"?>\n<!DOCTYPE html>',
        "<script>location='/login'</script>",
        "<head><meta http-equiv=refresh>",
        "\n\n<WISPAccessGatewayParam>",
        "<html>".encode("utf-16"),
    ],
)
def test_a_captive_portal_is_not_taken_for_the_sink(ask, page):
    outcome = ask(200, body=page)
    assert outcome.verdict is MISCONFIGURED
    assert "captive portal" in outcome.detail
    assert "log in" in outcome.hint


@pytest.mark.parametrize(
    "content_type",
    [
        *["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml", "text/xml"],
        *["text/html, text/html", "application/xhtml+xml,text/html"],
        *["application/xml;charset=utf-8", "application/problem+xml", " text/html"],
    ],
)
def test_a_2xx_of_a_markup_type_is_no_delivery_whatever_its_body(ask, content_type):
    for status in (200, 202, 204):
        outcome = ask(status, body="" if status == 204 else "ok", content_type=content_type)
        assert outcome.verdict is MISCONFIGURED
        assert "must not answer in HTML or XML" in outcome.hint


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "", "text/htmlx", "a/xmlb"]
)
def test_a_2xx_of_any_other_type_is_a_delivery(ask, content_type):
    assert ask(200, body="ok", content_type=content_type).verdict is DELIVERED


def test_nobody_knows_whether_who_answers_2xx_with_a_page_has_stored_the_batch(ask):
    """A sink may store, and then answer with a page."""
    assert not ask(200, body="<html>stored</html>").fate_known


@pytest.mark.parametrize(
    ("header", "engine"),
    [("X-Influxdb-Version", "InfluxDB"), ("x-server-hostname", "VictoriaMetrics")],
)
@pytest.mark.parametrize(("status", "fate_known"), [(204, False), (200, False), (400, True)])
def test_a_database_that_does_not_know_the_format_is_not_the_sink(
    ask, header, engine, status, fate_known
):
    outcome = ask(status, headers={header: "1"})
    assert (outcome.verdict, outcome.fate_known) == (MISCONFIGURED, fate_known)
    assert engine in outcome.detail
    assert "[sink] format" in outcome.hint
    assert ask(503, headers={header: "1"}).verdict is TRY_LATER


@pytest.mark.parametrize(
    "body",
    [
        '{"took":3,"errors":true,"items":[]}',
        '\ufeff {"errors" : true}',
        '{"items": [{"a": 1}], "errors": true}',
        '{"took": 3, "errors": true, "items": [' + '{"index": {"status": 400}},' * 9000,
    ],
)
def test_errors_within_a_2xx_are_no_delivery(ask, body):
    outcome = ask(200, body=body, content_type="application/json")
    assert (outcome.verdict, outcome.fate_known) == (MISCONFIGURED, False)
    assert '"errors": true' in outcome.detail


@pytest.mark.parametrize(
    "body",
    [
        '{"errors": false}',
        '{"errors": 0, "a": true}',
        '{"item": {"errors": true}}',
        '[{"errors": true}]',
        '"errors": true',
        '{"text": "\\"errors\\": true"}',
        "[" * 60_000,
    ],
)
def test_other_mentions_of_errors_are_none(ask, body):
    assert ask(200, body=body).verdict is DELIVERED


def test_a_web_page_with_an_error_is_an_error(ask):
    assert ask(502, body="<html>Bad gateway").verdict is TRY_LATER
    assert ask(404, body="<html>Not found").detail == "404 Not Found: <html>Not found"


@pytest.mark.parametrize("body", ["", '{"ok": true}', "thanks for the <html>", "1 < 2"])
def test_any_other_body_of_a_2xx_is_delivered(ask, body):
    assert ask(200, body=body).verdict is DELIVERED


@pytest.mark.parametrize("status", [429, 503, 500, 302])
def test_retry_after_in_seconds_is_honoured(ask, status):
    assert ask(status, headers={"Retry-After": "120"}).retry_after == 120.0


def test_retry_after_says_that_a_503_did_not_take_the_batch(ask):
    assert ask(503, headers={"Retry-After": "5"}).fate_known
    assert not ask(503, headers={"Retry-After": "soon"}).fate_known


def test_retry_after_of_429_and_503_is_honoured_whatever_their_class(ask):
    sink = replace(SINK, refused_statuses=frozenset({429, 503}))
    for status in (429, 503):
        outcome = ask(status, headers={"Retry-After": "5"}, sink=sink)
        assert (outcome.verdict, outcome.retry_after) == (REFUSED, 5.0)


def test_retry_after_of_another_answer_is_none_of_our_business(ask):
    assert ask(400, headers={"Retry-After": "5"}).retry_after is None
    assert ask(200, headers={"Retry-After": "5"}).retry_after is None


def test_a_retry_after_date_is_measured_against_the_answers_own_date(ask):
    headers = {"Retry-After": TWO_MINUTES_LATER, "Date": "Mon, 23 Nov 2026 07:46:08 GMT"}
    assert ask(503, headers=headers).retry_after == 30.0


def test_a_retry_after_date_is_else_measured_against_the_clock(ask):
    assert ask(503, headers={"Retry-After": TWO_MINUTES_LATER}).retry_after == 120.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("-5", 0.0),
        ("1.5", 1.5),
        ("3601", 3600.0),
        ("9" * 5000, 3600.0),
        (DATE, 0.0),
        ("Mon, 23 Nov 2026 07:43:38 GMT", 0.0),  # past
        ("Monday, 23-Nov-26 07:46:38 GMT", 120.0),
        ("Mon Nov 23 07:46:38 2026", 120.0),
        ("Sun, 31 Dec 9999 23:59:59 GMT", 3600.0),
        *[(nonsense, None) for nonsense in ("", "soon", "5 s", "1_0", "٣", "nan", "inf", "1e3")],
    ],
)
def test_retry_after_is_read_in_both_forms_and_capped_and_nonsense_is_ignored(text, seconds):
    assert seconds_until(text, "", WALL) == seconds


header_like = st.text(st.sampled_from("Mon,23 Nov2026:+-GMT.0e\t\x00é"), max_size=40)


@given(header_like | st.text(), header_like | st.text())
def test_no_retry_after_can_break_the_client(text, date):
    seconds = seconds_until(text, date, WALL)
    assert seconds is None or 0.0 <= seconds <= 3600.0


def test_the_detail_is_one_short_printable_line(ask):
    body = "first\r\n\tsecond\x00\x1b[31m \N{SNOWMAN}" + "x" * 500
    outcome = ask(503, body=body)
    assert outcome.detail.startswith("503 Service Unavailable: first second[31m \N{SNOWMAN}xx")
    assert len(outcome.detail) == len("503 Service Unavailable: ") + 200
    assert outcome.detail.isprintable()


def test_a_body_that_is_no_text_does_no_harm(ask):
    assert ask(500, body=b"\xff\xfe\x00\x80").detail.isprintable()


def test_a_redirect_is_not_followed_and_the_hint_says_where_it_leads(ask):
    outcome = ask(308, headers={"Location": "https://sink.example/v2/telemetry"})
    assert outcome.verdict is MISCONFIGURED
    assert outcome.hint == (
        "the sink redirects to https://sink.example/v2/telemetry: put that into [sink] url"
    )


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/v2", "http://sink.example/v2:"),
        ("https://user:secret@other.example:8443/x?token=secret#secret", "other.example:8443/x:"),
    ],
)
def test_a_redirect_is_shown_in_full_but_without_secrets(ask, location, shown):
    hint = ask(301, headers={"Location": location}).hint
    assert shown in hint
    assert "secret" not in hint


@pytest.mark.parametrize("location", ["http://[", "//", "http://\x7f:99999/", "://", "?"])
def test_no_redirect_can_break_the_client(ask, location):
    assert ask(301, headers={"Location": location}).verdict is MISCONFIGURED


ENGINE = st.sampled_from(["", *ENGINES.values()])


@given(st.integers(), st.text(), st.text(), st.text(), ENGINE, st.text())
@example(301, "a\x1b[2J", "b\x1b[2J", "", "", "/c\x1b[2J")
def test_no_answer_can_break_the_client(status, reason, body, content_type, engine, location):
    outcome = interpret(
        SinkResponse(status, reason, body, content_type, engine, location), SINK, WALL
    )
    assert (outcome.detail + outcome.hint).isprintable()
