# SPDX-License-Identifier: Apache-2.0
"""Several hosts in one address: the one that takes writes is found, within one deadline."""

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from edgepaas.pgdriver.connection import connect
from edgepaas.pgdriver.failures import ConnectFailure, Failure
from edgepaas.pgdriver.hosts import endpoint_of, try_hosts
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings import Address, split_url
from edgepaas.timing.deadline import Scope
from tests.support import hostile_postgres as hostile
from tests.support.hostile_postgres import Behaviour, HostileServer

PLAIN = TLSPolicy("disable")
#: Seconds that are never needed, unless something waits for them.
AMPLE = 60.0


@contextlib.contextmanager
def cluster(*behaviours: Behaviour, query: str = "") -> Iterator[tuple[Address, list[str]]]:
    """Yield one address of a server for each behaviour, and the servers' places."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(HostileServer(behaviour)) for behaviour in behaviours]
        places = [f"127.0.0.1:{server.port}" for server in servers]
        yield split_url(f"postgresql://u:tr0ub4dor@{','.join(places)}/d{query}"), places


@pytest.mark.parametrize(
    "before",
    [
        [hostile.obliging(standby=True)],
        [hostile.obliging(read_only=True)],
        [hostile.hang_up],
        [hostile.error("57P03", "the database system is starting up")],
        [hostile.error("28P01", "no")],
        [hostile.http, hostile.obliging(standby=True)],
        [],
    ],
    ids=["standby", "read-only", "hung up", "starting", "password", "two", "none"],
)
def test_what_takes_no_writes_is_passed_over_at_once(before: list[Behaviour]) -> None:
    """The time is ample: a test that waited for a share of it would show it."""
    began = time.monotonic()
    with cluster(*before, hostile.obliging(), hostile.silent) as (address, places):
        connection = connect(address, deadline=10 * AMPLE, tls=PLAIN)
        assert connection.endpoint == places[len(before)]
        connection.close()
    assert time.monotonic() - began < AMPLE, "it waited for a host that had answered"


def test_a_host_that_swallows_packets_does_not_use_up_the_time_of_the_next() -> None:
    """The silent ones keep the deadline's share; the good one is begun beside them."""
    with hostile.black_hole() as url, cluster(hostile.silent, hostile.obliging()) as found:
        _, places = found
        hole = split_url(url)
        several = split_url(f"postgresql://u:p@{endpoint_of(hole)},{','.join(places)}/d")
        connection = connect(several, deadline=6.0, tls=PLAIN)
        assert connection.endpoint == places[1]
        connection.close()


def test_any_takes_the_first_that_answers() -> None:
    with cluster(
        hostile.obliging(standby=True), hostile.obliging(), query="?target_session_attrs=any"
    ) as (address, places):
        connection = connect(address, deadline=AMPLE, tls=PLAIN)
        assert connection.endpoint == places[0]
        connection.close()


def test_one_host_may_be_asked_for_as_well() -> None:
    with (
        cluster(hostile.obliging(standby=True), query="?target_session_attrs=read-write") as (
            address,
            places,
        ),
        pytest.raises(ConnectFailure) as caught,
    ):
        connect(address, deadline=AMPLE, tls=PLAIN)
    assert caught.value.kind is Failure.READ_ONLY
    assert places[0] in str(caught.value)


def test_the_failure_names_every_host_and_its_reason_and_no_password() -> None:
    with (
        hostile.black_hole() as url,
        cluster(hostile.obliging(standby=True), hostile.error("28P01", "no such password")) as (
            _,
            places,
        ),
    ):
        hole = endpoint_of(split_url(url))
        address = split_url(f"postgresql://u:tr0ub4dor@{','.join(places)},{hole}/d")
        with pytest.raises(ConnectFailure) as caught:
            connect(address, deadline=4.0, tls=PLAIN)
    said = str(caught.value)
    assert "none of its 3 hosts can be used" in said
    assert f"{places[0]} is a standby" in said
    assert f"{hole} cannot be reached" in said
    assert f"{places[1]} does not admit" in said
    assert "tr0ub4dor" not in said
    assert caught.value.kind is Failure.UNREACHABLE, "not that a standby is one"
    assert not caught.value.permanent, "the one that is out of reach may come back"


def test_a_full_primary_beside_its_standby_is_a_full_server() -> None:
    """So that a box that has connections goes on with those."""
    with (
        cluster(hostile.error("53300", "too many clients"), hostile.obliging(standby=True)) as (
            address,
            _,
        ),
        pytest.raises(ConnectFailure) as caught,
    ):
        connect(address, deadline=AMPLE, tls=PLAIN)
    assert caught.value.full
    assert caught.value.kind is Failure.BUSY


def test_only_standbys_are_read_only() -> None:
    standby = hostile.obliging(standby=True)
    with cluster(standby, standby) as (address, _), pytest.raises(ConnectFailure) as caught:
        connect(address, deadline=AMPLE, tls=PLAIN)
    assert caught.value.kind is Failure.READ_ONLY


def test_the_certificate_of_the_host_that_answered_is_checked(tmp_path: Path) -> None:
    """verify-full: the first host's certificate is for another name, the second one's its own."""
    authority = trustme.CA()
    root = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(root))

    def context(name: str) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(made)
        return made

    with (
        HostileServer(hostile.tls(context("other.example"))) as wrong,
        HostileServer(hostile.tls(context("127.0.0.1"))) as right,
    ):
        address = split_url(f"postgresql://u:p@127.0.0.1:{wrong.port},127.0.0.1:{right.port}/d")
        connection = connect(address, deadline=AMPLE, tls=TLSPolicy("verify-full", str(root)))
        assert connection.endpoint == f"127.0.0.1:{right.port}"
        connection.close()
        reversed_names = split_url(
            f"postgresql://u:p@127.0.0.1:{wrong.port}/d?target_session_attrs=read-write"
        )
        with pytest.raises(ConnectFailure, match="not trusted") as caught:
            connect(reversed_names, deadline=AMPLE, tls=TLSPolicy("verify-full", str(root)))
    assert caught.value.kind is Failure.TLS


def test_what_comes_too_late_is_discarded_and_what_is_first_is_kept() -> None:
    """The slow first host ends after the second one was taken: its connection is closed."""
    may_end, discarded = threading.Event(), threading.Event()

    def attempt(_scope: Scope, host: Address) -> str:
        if host.host == "slow":
            assert may_end.wait(AMPLE)
        return host.host

    def discard(name: str) -> None:
        assert name == "slow"
        discarded.set()

    address = split_url("postgresql://u@slow,quick/d")
    assert try_hosts(address, 4.0, attempt, discard=discard) == "quick"
    may_end.set()
    assert discarded.wait(AMPLE)


def test_an_error_that_is_no_connect_failure_is_raised_as_it_is() -> None:
    def attempt(_scope: Scope, host: Address) -> str:
        raise ZeroDivisionError(host.host)

    with pytest.raises(ZeroDivisionError, match="a"):
        try_hosts(split_url("postgresql://u@a,b/d"), AMPLE, attempt, discard=lambda _: None)


def test_hosts_are_begun_in_their_order() -> None:
    begun: list[str] = []

    def attempt(_scope: Scope, host: Address) -> str:
        begun.append(host.host)
        raise ConnectFailure(Failure.REFUSED, f"{endpoint_of(host)} refuses")

    with pytest.raises(ConnectFailure):
        try_hosts(split_url("postgresql://u@a,b,c/d"), AMPLE, attempt, discard=lambda _: None)
    assert begun == ["a", "b", "c"]
