"""P2, P7: a certificate that cannot be trusted keeps readings here; a new one is followed."""

import shutil

import pytest
from crash.node import Node
from faults.certificates import self_signed, signed
from faults.outages import (
    QUICK,
    assert_borne,
    assert_mended,
    kill_between_requests,
    verdict_of,
)
from sinks import SinkProcess

HINT = "check [sink] ca_file and url, and the clock"


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    """Of two authorities, and of sinks: good ones, and each kind of bad one."""
    directory = tmp_path_factory.mktemp("pems")
    made = {name: self_signed(directory / f"{name}.pem") for name in ("ca", "new-ca", "alone")}
    for name, options in {
        "good": {},
        "renewed": {},
        "expired": {"days": -1},
        "other-host": {"names": "DNS:other.example"},
    }.items():
        made[name] = signed(directory / f"{name}.pem", made["ca"], **options)
    made["of-new-ca"] = signed(directory / "of-new-ca.pem", made["new-ca"])
    return made


def show(node, sink, pem):
    """The sink comes back with another certificate."""
    kill_between_requests(node, sink)
    sink.pem = pem
    sink.start()


def test_bad_certificates_are_named_and_good_ones_followed_without_a_restart(tmp_path, pems):
    trusted = tmp_path / "ca.pem"
    shutil.copy(pems["ca"], trusted)
    with SinkProcess(tmp_path, pem=pems["good"]) as sink:
        options = {**QUICK["sink"], "timeout": "5s", "url": sink.url, "ca_file": trusted}
        with Node(tmp_path / "node", **{**QUICK, "sink": options}) as node:
            node.start()
            node.await_delivered(5)
            for pem, reason in (
                ("expired", "certificate not trusted: certificate has expired"),
                ("alone", "certificate not trusted: self-signed certificate"),
                # "mismatch" or "doesn't match": it is Python or urllib3 that says so.
                ("other-host", "match"),
            ):
                show(node, sink, pems[pem])
                met = sink.request_count()
                assert_borne(node, reason, HINT)
                assert sink.request_count() == met
            # Rotated by whoever runs the sink; first within what is trusted, then beyond it.
            show(node, sink, pems["renewed"])
            assert_mended(node)
            show(node, sink, pems["of-new-ca"])
            assert_borne(node, "certificate not trusted: unable to get local issuer", HINT)
            replacement = tmp_path / "new"
            shutil.copy(pems["new-ca"], replacement)
            replacement.replace(trusted)
            assert_mended(node)
            assert verdict_of(node, sink).stored_twice == set()
