"""The sinks that other tests rely on misbehave as told, and forget nothing."""

import contextlib
import errno
import gzip
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import sinks
from sinks import FaultSink, SinkProcess
from waiting import wait_until

DEADLINE = 30.0
JSON = {"Content-Type": "application/json"}
Sink = FaultSink | SinkProcess


@pytest.fixture(params=[FaultSink, SinkProcess])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sink]:
    with request.param(tmp_path) as sink:
        yield sink


def message(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"9f3c-{number}",
        "node": "edge-01",
        "name": "temperature",
        "value": 1.5,
        "timestamp": "2026-11-23T07:44:38.120000Z",
    } | changes


def post(sink: Sink, *numbers: int, timeout: float = DEADLINE) -> requests.Response:
    body = json.dumps([message(number) for number in numbers])
    return requests.post(sink.url, body, headers=JSON, timeout=timeout)


class Posting:
    """A request that does not come back at once, in a thread."""

    def __init__(self, sink: Sink, *numbers: int) -> None:
        self.status: int | None = None
        self.error: requests.RequestException | None = None
        self._thread = threading.Thread(target=self._post, args=(sink, *numbers))
        self._thread.start()

    def _post(self, sink: Sink, *numbers: int) -> None:
        try:
            self.status = post(sink, *numbers).status_code
        except requests.RequestException as error:
            self.error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        wait_until(lambda: self.done, what="the request to end")


# Nothing is forgotten.


def test_every_copy_is_kept(sink: Sink) -> None:
    assert post(sink, 1, 2).json() == {"stored": 2, "duplicates": 0}
    assert post(sink, 2, 3).json() == {"stored": 1, "duplicates": 1}
    assert sink.stored_ids() == {"9f3c-1", "9f3c-2", "9f3c-3"}
    assert sink.count() == 3
    assert [one.id for one in sink.messages()] == ["9f3c-1", "9f3c-2", "9f3c-2", "9f3c-3"]
    assert [one.request_no for one in sink.copies("9f3c-2")] == [1, 2]
    assert sink.repeated_ids() == {"9f3c-2"}
    assert sink.differing_ids() == set()


def test_copies_that_differ_are_found(sink: Sink) -> None:
    post(sink, 1, 2)
    other = json.dumps(message(2, value=1.25))
    requests.post(sink.url, other, headers=JSON, timeout=DEADLINE)
    assert sink.differing_ids() == {"9f3c-2"}


def test_missing_numbers_are_named_for_all_streams_together_and_within_each(sink: Sink) -> None:
    post(sink, 5, 2, 3)
    other = [message(7, id="beef-7"), message(9, id="beef-9")]
    requests.post(sink.url, json.dumps(other), headers=JSON, timeout=DEADLINE)
    assert sink.missing_numbers() == [1, 4, 6, 8]
    assert sink.missing_within() == {"9f3c": [4], "beef": [8]}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["array", "object", "lines"])
def test_the_very_text_of_each_message_is_kept(sink: Sink, kind: str, packed: bool) -> None:
    texts = [
        '{"id":"a-1","node":"n","name":"], [{\\"","value":-0.0,"timestamp":"t"}',
        '{ "id": "a-2","node":"n","name":"é","value":1e3, "timestamp":"t"\t}',
    ]
    if kind == "object":
        del texts[1:]
    body = {"array": " [ %s ] \n", "object": " %s\n", "lines": "%s\n"}[kind]
    content = (body % ("\n" if kind == "lines" else " ,\n ").join(texts)).encode()
    headers = {"Content-Type": "application/x-ndjson"} if kind == "lines" else dict(JSON)
    if packed:
        content = gzip.compress(content)
        headers["Content-Encoding"] = "gzip"
    assert requests.post(sink.url, content, headers=headers, timeout=DEADLINE).ok
    assert [one.body for one in sink.messages()] == texts
    assert struct.pack("d", sink.messages()[0].value) == struct.pack("d", -0.0)


def test_every_request_is_listed(sink: Sink) -> None:
    before = time.time(), time.monotonic()
    headers = JSON | {"Idempotency-Key": '"k"', "X-Test": "yes"}
    requests.post(f"{sink.url}?q=1", json.dumps(message(1)), headers=headers, timeout=DEADLINE)
    requests.get(sink.url, timeout=DEADLINE)
    first, second = sink.requests()
    assert (first.no, first.method, first.path) == (1, "POST", "/telemetry?q=1")
    assert json.loads(first.body) == message(1)
    assert first.headers["idempotency-key"] == '"k"'
    assert first.headers["X-Test"] == "yes"
    assert first.complete
    assert before[0] <= first.time <= time.time()
    assert before[1] <= first.monotonic <= time.monotonic()
    assert sink.copies("9f3c-1")[0].key == '"k"'
    assert (second.no, second.method, second.body) == (2, "GET", b"")
    assert first.connection != second.connection
    assert sink.request_count() == 2
    assert "request 2: GET" in sink.summary()


def test_requests_of_one_connection_are_known_by_it(sink: Sink) -> None:
    with requests.Session() as session:
        for number in (1, 2):
            body = json.dumps(message(number))
            session.post(sink.url, body, headers=JSON, timeout=DEADLINE)
    first, second = sink.requests()
    assert first.connection == second.connection


@pytest.mark.parametrize(
    "body",
    [b"{", b"[1]", b"{}", json.dumps([message(1), message(2, value=None)]).encode()],
)
def test_what_breaks_the_contract_is_answered_400_and_not_stored(sink: Sink, body: bytes) -> None:
    response = requests.post(sink.url, body, headers=JSON, timeout=DEADLINE)
    assert response.status_code == 400
    assert "malformed" in response.text
    assert sink.messages() == []
    assert sink.requests()[0].body == body


def test_a_request_cut_short_is_listed_and_not_stored(sink: Sink) -> None:
    with socket.create_connection((sink.host, sink.port), DEADLINE) as client:
        client.sendall(b"POST /telemetry HTTP/1.1\r\nContent-Length: 1000\r\n\r\n[")
    [request] = wait_until(sink.requests, what="the request to be listed")
    assert (request.complete, request.body) == (False, b"[")
    assert sink.messages() == []


# It misbehaves as told.


def test_a_status_comes_with_its_headers_and_stores_nothing(sink: Sink) -> None:
    sink.behave(sinks.answer(503, "come back\n", Retry_After="7"))
    for _ in range(2):
        response = post(sink, 1)
        assert (response.status_code, response.text) == (503, "come back\n")
        assert response.headers["Retry-After"] == "7"
    assert sink.messages() == []
    sink.behave(sinks.ok())
    assert post(sink, 1).status_code == 200
    assert sink.stored_ids() == {"9f3c-1"}


def test_a_status_may_lie_about_what_was_stored(sink: Sink) -> None:
    sink.script(sinks.answer(500, stored=True), sinks.answer(204, stored=False))
    assert post(sink, 1).status_code == 500
    assert post(sink, 2).status_code == 204
    assert sink.stored_ids() == {"9f3c-1"}


def test_a_captive_portal_answers_with_a_page(sink: Sink) -> None:
    sink.behave(sinks.captive_portal())
    response = post(sink, 1)
    assert response.status_code == 200
    assert response.text.startswith("<!DOCTYPE html>")
    assert response.headers["Content-Type"] == "text/html"
    assert sink.messages() == []


def test_a_script_is_followed_once_then_the_standing_behaviour(sink: Sink) -> None:
    sink.script(sinks.answer(429), sinks.answer(401), sinks.ok())
    assert [post(sink, 1).status_code for _ in range(5)] == [429, 401, 200, 200, 200]
    sink.behave(sinks.answer(502))
    sink.script(sinks.ok())
    assert [post(sink, 1).status_code for _ in range(3)] == [200, 502, 502]


def test_a_script_goes_on_where_it_was_after_a_restart(sink: Sink) -> None:
    sink.script(sinks.answer(429), sinks.answer(401))
    assert post(sink, 1).status_code == 429
    sink.restart()
    assert [post(sink, 1).status_code for _ in range(2)] == [401, 200]


def test_a_delay_comes_before_the_answer_and_after_the_storing(sink: Sink) -> None:
    sink.behave(sinks.delay(0.3))
    start = time.monotonic()
    posting = Posting(sink, 1)
    wait_until(lambda: sink.count() == 1, what="the message to be stored")
    posting.join()
    assert posting.status == 200
    assert time.monotonic() - start >= 0.3


@pytest.mark.parametrize(
    ("store", "meanwhile", "status", "finally_"),
    [("before", 1, 200, 1), ("after", 0, 200, 1), ("no", 0, None, 0)],
)
def test_a_request_hangs_until_released(
    sink: Sink, store: str, meanwhile: int, status: int | None, finally_: int
) -> None:
    sink.script(sinks.hang(store=store))
    posting = Posting(sink, 1)
    wait_until(sink.requests, what="the request to arrive")
    assert post(sink, 2).status_code == 200  # others do not hang
    assert not posting.done
    assert len(sink.copies("9f3c-1")) == meanwhile
    sink.release()
    posting.join()
    assert posting.status == status
    assert len(sink.copies("9f3c-1")) == finally_


def test_a_release_is_for_those_that_hang_now(sink: Sink) -> None:
    sink.release()
    sink.behave(sinks.hang())
    posting = Posting(sink, 1)
    wait_until(sink.requests, what="the request to arrive")
    sink.behave(sinks.ok())
    assert not posting.done
    sink.stop()  # does not wait for it
    posting.join()
    assert posting.error is not None


def socket_error(error: BaseException | None) -> OSError | None:
    """The OSError at the bottom of what requests made of it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        error = error.__context__
    return None


@pytest.mark.parametrize("stored", [True, False])
def test_a_connection_is_reset_after_reading(sink: Sink, stored: bool) -> None:
    sink.script(sinks.reset(stored=stored))
    with pytest.raises(requests.ConnectionError) as raised:
        post(sink, 1)
    cause = socket_error(raised.value)
    assert cause is not None
    assert cause.errno == errno.ECONNRESET
    assert sink.count() == stored
    assert post(sink, 2).status_code == 200


def test_a_connection_is_reset_unread(sink: Sink) -> None:
    sink.script(sinks.reset_unread())
    with pytest.raises(requests.ConnectionError):
        post(sink, 1)
    [request] = sink.requests()
    assert (request.method, request.body, request.complete) == ("", b"", False)
    assert sink.messages() == []


def test_a_connection_is_closed_without_an_answer(sink: Sink) -> None:
    sink.script(sinks.close())
    with pytest.raises(requests.ConnectionError, match="Remote end closed"):
        post(sink, 1)
    assert sink.stored_ids() == {"9f3c-1"}


def test_an_answer_breaks_off(sink: Sink) -> None:
    sink.script(sinks.unfinished())
    parts = urlsplit(sink.url)
    # Not with requests: whether it minds depends on the version of urllib3.
    with contextlib.closing(
        http.client.HTTPConnection(parts.hostname, parts.port, timeout=DEADLINE)
    ) as connection:
        connection.request("POST", parts.path, json.dumps([message(1)]), JSON)
        with connection.getresponse() as answer, pytest.raises(http.client.IncompleteRead):
            answer.read()
    assert sink.stored_ids() == {"9f3c-1"}


def test_an_answer_trickles(sink: Sink) -> None:
    sink.script(sinks.Behaviour(body="abc", trickle=0.05))
    start = time.monotonic()
    assert post(sink, 1).text == "abc"
    assert time.monotonic() - start >= 0.15


def test_an_answer_is_sent_verbatim(sink: Sink) -> None:
    sink.script(sinks.raw("HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nhi"))
    response = post(sink, 1)
    assert (response.status_code, response.text) == (299, "hi")


@pytest.mark.parametrize(
    ("behaviour", "refused"),
    [
        (sinks.refuse(name="poison"), [message(1), message(2, name="poison")]),
        (sinks.refuse(value=13.0), [message(1), message(2, value=13)]),
        (sinks.refuse(more_than=1, status=413), [message(1), message(2)]),
    ],
)
def test_a_batch_with_the_wrong_message_is_refused(
    sink: Sink, behaviour: sinks.Behaviour, refused: list[dict[str, Any]]
) -> None:
    sink.behave(behaviour)
    response = requests.post(sink.url, json.dumps(refused), headers=JSON, timeout=DEADLINE)
    assert response.status_code == behaviour.refuse_status
    assert sink.messages() == []
    assert post(sink, 1).status_code == 200
    assert sink.stored_ids() == {"9f3c-1"}


# It goes away and comes back.


def test_a_sink_that_is_stopped_refuses_connections_and_comes_back(sink: Sink) -> None:
    url = sink.url
    with requests.Session() as session:  # an open connection is cut
        body = json.dumps(message(1))
        assert session.post(url, body, headers=JSON, timeout=DEADLINE).ok
        sink.stop()
        with pytest.raises(requests.ConnectionError):
            session.post(url, body, headers=JSON, timeout=DEADLINE)
    assert sink.stored_ids() == {"9f3c-1"}  # it answers for itself while stopped
    sink.start()
    assert sink.url == url
    assert post(sink, 1).json() == {"stored": 0, "duplicates": 1}
    assert [one.no for one in sink.requests()] == [1, 2]


def test_a_port_is_never_one_that_a_client_could_be_lent(sink: Sink) -> None:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        lowest, highest = map(int, file.read().split())
    assert not lowest <= sink.port <= highest


def test_a_killed_sink_keeps_what_it_answered(tmp_path: Path) -> None:
    with SinkProcess(tmp_path) as sink:
        first, port = sink.pid, sink.port
        for number in range(20):
            post(sink, number)
        sink.kill()
        with pytest.raises(requests.ConnectionError):
            post(sink, 20)
        assert sink.count() == 20
        sink.start()
        assert (sink.port, sink.pid != first) == (port, True)
        assert post(sink, 19, 20).json() == {"stored": 1, "duplicates": 1}
        assert len({one.connection for one in sink.requests()}) == 21


def test_a_paused_sink_is_silent(tmp_path: Path) -> None:
    with SinkProcess(tmp_path) as sink:
        sink.pause()
        with pytest.raises(requests.Timeout):
            post(sink, 1, timeout=0.2)
        sink.resume()
        assert post(sink, 2).status_code == 200
        sink.pause()  # and can be stopped while it is paused


def test_a_sink_runs_in_its_own_session_and_is_gone_after_the_test(tmp_path: Path) -> None:
    with SinkProcess(tmp_path) as sink:
        pid = sink.pid
        assert os.getsid(pid) == pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (tmp_path / "sink.log").read_text() == ""


def test_a_sink_ends_with_the_test_run_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from sinks import SinkProcess\n"
        "sink = SinkProcess(Path(sys.argv[1]))\n"
        "print(sink.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(sinks.__file__).parent)},
    ) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert alive(pid)
        run.send_signal(signal.SIGKILL)
    wait_until(lambda: not alive(pid), what="the sink to end")


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_sink_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(AssertionError, match="Address already in use"),
    ):
        SinkProcess(tmp_path, port=other.getsockname()[1])


# Waiting.


def test_waiting_ends_with_what_was_found() -> None:
    found = iter([None, [], "it"])
    assert wait_until(lambda: next(found)) == "it"


def test_waiting_in_vain_says_for_what_and_shows_the_detail() -> None:
    with pytest.raises(AssertionError) as raised:
        wait_until(lambda: False, 0.05, "the moon", detail=lambda: "log: dark")
    assert str(raised.value) == "not within 0.05 s: the moon\nlog: dark"


def test_a_request_is_reset_in_the_middle_of_its_body(sink: Sink) -> None:
    sink.behave(sinks.reset_half_read())
    with pytest.raises(requests.ConnectionError):
        post(sink, 1)
    (met,) = sink.requests()
    assert (met.complete, sink.count()) == (False, 0)


def test_an_answer_never_ends(sink: Sink) -> None:
    sink.behave(sinks.endless(503, stored=False))
    with requests.post(sink.url, json=[message(1)], stream=True, timeout=DEADLINE) as answered:
        assert answered.status_code == 503
        assert len(answered.raw.read(1_000_000)) == 1_000_000
    assert sink.count() == 0


def test_the_head_of_an_answer_drips(sink: Sink) -> None:
    sink.behave(sinks.drip(0.01, head=True))
    began = time.monotonic()
    assert post(sink, 1).status_code == 200
    assert time.monotonic() - began > 0.5


def test_a_guarded_sink_wants_its_token(sink: Sink) -> None:
    sink.behave(sinks.guarded("secret"))
    assert post(sink, 1).status_code == 401
    headers = {"Authorization": "Bearer secret"}
    answered = requests.post(sink.url, json=[message(2)], headers=headers, timeout=DEADLINE)
    assert answered.status_code == 200
    assert sink.count() == 1


def test_a_flapping_sink_is_well_and_unwell_in_turns(sink: Sink) -> None:
    sink.behave(sinks.flap(0.1))
    met: set[int] = set()

    def both() -> bool:
        met.add(post(sink, 1).status_code)
        return met == {200, 503}

    wait_until(both, what="it has been both")


def test_a_limit_on_bytes_refuses_what_is_larger(sink: Sink) -> None:
    sink.behave(sinks.refuse(more_bytes_than=200, status=413))
    assert post(sink, 1).status_code == 200
    assert post(sink, 2, 3, 4).status_code == 413
    assert sink.count() == 1
