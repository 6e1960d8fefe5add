# SPDX-License-Identifier: Apache-2.0
"""Every kind of server that is none: the deadline holds, and the reason is told apart."""

import contextlib
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from edgepaas.decision.probe import probe
from edgepaas.pgdriver.connection import connect
from edgepaas.pgdriver.failures import ConnectFailure, Failure
from edgepaas.pgdriver.login_socket import CheckedSocket
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings import split_url
from tests.support import hostile_postgres as hostile
from tests.support.hostile_postgres import Behaviour, HostileServer

PLAIN = TLSPolicy("disable")
ENCRYPTED = TLSPolicy("require")
DEADLINE = 0.5
#: Far above the deadline, for a machine under load; far below every server's patience.
LIMIT = 8.0


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """The block must not wait for the server's patience instead of the deadline."""
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < LIMIT


@pytest.mark.parametrize(
    ("behaviour", "tls", "kind"),
    [
        (hostile.silent, PLAIN, Failure.SILENT),
        (hostile.silent, ENCRYPTED, Failure.SILENT),
        (hostile.silent_in_tls, ENCRYPTED, Failure.SILENT),
        (hostile.dripping, PLAIN, Failure.SILENT),
        (hostile.dripping_in_tls, ENCRYPTED, Failure.SILENT),
        (hostile.costly_password, PLAIN, Failure.SILENT),
        (hostile.http, PLAIN, Failure.NOT_POSTGRES),
        (hostile.http, ENCRYPTED, Failure.NOT_POSTGRES),
        (hostile.ssh, PLAIN, Failure.NOT_POSTGRES),
        (hostile.ssh, ENCRYPTED, Failure.NOT_POSTGRES),
        (hostile.nonsense, PLAIN, Failure.NOT_POSTGRES),
        (hostile.huge_message, PLAIN, Failure.NOT_POSTGRES),
        (hostile.without_tls, ENCRYPTED, Failure.TLS),
        (hostile.hang_up, ENCRYPTED, Failure.OTHER),
        (hostile.hang_up, PLAIN, Failure.OTHER),
        (hostile.hang_up_after_startup, PLAIN, Failure.OTHER),
        (hostile.error("28P01", "password authentication failed"), PLAIN, Failure.AUTHENTICATION),
        (hostile.error("28000", "no pg_hba.conf entry"), PLAIN, Failure.AUTHENTICATION),
        (hostile.error("3D000", "no such database"), PLAIN, Failure.NO_DATABASE),
        (hostile.error("53300", "too many connections"), PLAIN, Failure.BUSY),
        (hostile.error("57P03", "the database system is starting up"), PLAIN, Failure.BUSY),
        (hostile.error("XX000", "a bug"), PLAIN, Failure.OTHER),
        (hostile.version("9.6.24"), PLAIN, Failure.TOO_OLD),
        (hostile.version("12.22 (Debian)"), PLAIN, Failure.TOO_OLD),
        (hostile.version("16.1"), PLAIN, Failure.SILENT),
        (hostile.version(""), PLAIN, Failure.SILENT),
    ],
    ids=lambda value: getattr(value, "__qualname__", getattr(value, "mode", str(value))),
)
def test_a_server_that_will_not_do_is_told_apart_within_the_deadline(
    behaviour: Behaviour, tls: TLSPolicy, kind: Failure
) -> None:
    """The reason names the place, and never the password."""
    with HostileServer(behaviour) as server, in_time():
        # A server that answers is given time to: the machine may be slow.
        deadline = DEADLINE if kind is Failure.SILENT else LIMIT / 2
        result = probe(split_url(server.url()), tls, deadline)
    assert (result.usable, result.kind) == (False, kind), result.reason
    assert "tr0ub4dor" not in result.reason
    assert result.reason


def test_the_whole_deadline_is_given_to_a_server_that_is_merely_slow() -> None:
    """A deadline that fell early would take a slow link for a dead one."""

    def slow(peer: hostile.Peer) -> None:
        peer.start()
        peer.drip(hostile.AUTHENTICATION_OK + hostile.READY, every=0.03)
        hostile.answer(peer)

    with HostileServer(slow) as server:
        began = time.monotonic()
        connection = connect(split_url(server.url()), deadline=LIMIT, tls=PLAIN)
        took = time.monotonic() - began
        connection.close()
    assert 0.4 < took < LIMIT, "the server's fifteen bytes come 0.03 s apart"


def test_a_refused_connection_is_told_from_a_black_hole() -> None:
    """Refused: the host is there; unreachable: no packet came back."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = split_url(f"postgresql://u:secret@127.0.0.1:{closed.getsockname()[1]}/d")
        refused = probe(address, PLAIN, DEADLINE)
    assert refused.kind is Failure.REFUSED
    assert not refused.permanent
    with hostile.black_hole() as url, in_time():
        lost = probe(split_url(url), PLAIN, DEADLINE)
    assert lost.kind is Failure.UNREACHABLE


def test_a_name_server_that_does_not_answer_costs_no_more_than_the_deadline() -> None:
    """getaddrinfo knows no timeout."""
    address = split_url("postgresql://u:secret@hub.example:5432/d")
    with in_time():
        result = probe(address, PLAIN, DEADLINE, resolve=hostile.dead_resolver)
    assert result.kind is Failure.DNS
    assert "name server does not answer" in result.reason


def test_a_name_that_does_not_exist_is_a_matter_of_dns() -> None:
    """RFC 6761 reserves .invalid for names that never resolve."""

    def no_such_name(*_: object) -> list[tuple[object, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    address = split_url("postgresql://u:secret@hub.invalid:5432/d")
    result = probe(address, PLAIN, DEADLINE, resolve=no_such_name)
    assert result.kind is Failure.DNS
    assert "hub.invalid" in result.reason


def test_dead_addresses_share_the_time_with_a_good_one() -> None:
    """Three dead addresses before the good one do not use the time up."""
    with contextlib.ExitStack() as stack:
        dead = [split_url(stack.enter_context(hostile.black_hole())) for _ in range(3)]
        server = stack.enter_context(HostileServer(hostile.obliging()))
        places = [(a.host, a.port) for a in dead] + [("127.0.0.1", server.port)]

        def resolve(*_: object) -> list[tuple[object, ...]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

        address = split_url("postgresql://u:secret@hub.example:5432/d")
        connection = connect(address, deadline=4, tls=PLAIN, resolve=resolve)
        assert connection.link.getpeername()[1] == server.port
        connection.close()


def test_all_addresses_refusing_is_a_refusal() -> None:
    """One that is silent among them makes it unreachable."""
    with socket.socket() as closed, hostile.black_hole() as url:
        closed.bind(("127.0.0.1", 0))
        refusing, hole = closed.getsockname(), (split_url(url).host, split_url(url).port)
        address = split_url("postgresql://u:secret@hub.example:5432/d")

        def kind_of(*places: tuple[str, int]) -> Failure | None:
            def resolve(*_: object) -> list[tuple[object, ...]]:
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

            return probe(address, PLAIN, DEADLINE, resolve=resolve).kind

        assert kind_of(refusing) is Failure.REFUSED
        assert kind_of(refusing, hole) is Failure.UNREACHABLE


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where a shell had the tests ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupted_attempt_lets_go_at_once() -> None:
    """Ctrl-C does not wait for a silent server, and the connection to it is cut."""
    gone = threading.Event()

    def watching(peer: hostile.Peer) -> None:
        peer.read_startup()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        while peer.sock.recv(100):
            pass
        gone.set()

    with HostileServer(watching) as server:
        with in_time(), pytest.raises(KeyboardInterrupt):
            connect(split_url(server.url()), deadline=60, tls=PLAIN)
        assert gone.wait(LIMIT)


def test_what_is_late_is_closed_and_not_leaked() -> None:
    """A connection that comes about after the deadline is given back."""
    gone = threading.Event()

    def late(peer: hostile.Peer) -> None:
        peer.read_startup()
        while peer.sock.recv(100):
            pass
        gone.set()

    with HostileServer(late) as server:
        with pytest.raises(ConnectFailure):
            connect(split_url(server.url()), deadline=0.2, tls=PLAIN)
        assert gone.wait(LIMIT)


@pytest.mark.parametrize("behaviour", [hostile.http, hostile.hang_up, hostile.error("28P01", "no")])
def test_failed_attempts_leave_no_descriptor_open(
    behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is away for a week is asked many times, and the collector may be off."""
    made: list[socket.socket] = []
    original = CheckedSocket.__init__

    def remembering(self: CheckedSocket, *arguments: Any) -> None:
        original(self, *arguments)
        made.append(self)

    monkeypatch.setattr(CheckedSocket, "__init__", remembering)
    with HostileServer(behaviour) as server, pytest.raises(ConnectFailure):
        connect(split_url(server.url()), deadline=LIMIT, tls=PLAIN)
    assert [sock.fileno() for sock in made] == [-1]


# --- certificates -------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of this test's own."""
    return trustme.CA()


@pytest.fixture
def root(authority: trustme.CA, tmp_path: Path) -> str:
    """The authority's certificate as a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def _context(authority: trustme.CA, name: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **options).configure_cert(context)
    return context


YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("127.0.0.1", {"not_after": YESTERDAY}, "expired"),
        ("other.example", {}, "mismatch"),
    ],
    ids=["expired", "wrong host"],
)
def test_a_certificate_that_does_not_fit_is_refused(
    authority: trustme.CA, root: str, name: str, options: dict[str, Any], says: str
) -> None:
    """verify-full checks dates and name; the reason says which, and what to do."""
    context = _context(authority, name, **options)
    with HostileServer(hostile.tls(context)) as server:
        result = probe(split_url(server.url()), TLSPolicy("verify-full", root), DEADLINE * 4)
    assert result.kind is Failure.TLS
    assert says in result.reason
    assert result.permanent


def test_a_certificate_of_an_unknown_authority_is_refused(authority: trustme.CA) -> None:
    """The system's authorities do not know the test's own."""
    context = _context(authority, "127.0.0.1")
    with HostileServer(hostile.tls(context)) as server:
        result = probe(split_url(server.url()), TLSPolicy("verify-full"), DEADLINE * 4)
    assert result.kind is Failure.TLS
    assert "DB_SSLROOTCERT" in result.reason


@pytest.mark.parametrize(
    ("mode", "name"),
    [("verify-full", "127.0.0.1"), ("verify-ca", "other.example"), ("require", "other.example")],
)
def test_a_mode_checks_what_it_says_and_no_more(
    authority: trustme.CA, root: str, mode: str, name: str
) -> None:
    """verify-ca takes any host name of the authority; require takes anybody."""
    context = _context(authority, name)
    policy = TLSPolicy(mode, "" if mode == "require" else root)
    with HostileServer(hostile.tls(context)) as server:
        connection = connect(split_url(server.url()), deadline=LIMIT, tls=policy)
        assert connection.link.cipher()
        connection.close()


def test_prefer_goes_on_without_tls_where_there_is_none() -> None:
    """Only an operator who says so gets this."""
    with HostileServer(hostile.version("9.6.24")) as server:
        result = probe(split_url(server.url()), TLSPolicy("prefer"), DEADLINE * 4)
    assert result.kind is Failure.TOO_OLD


def test_a_ca_file_that_is_not_there_is_named() -> None:
    """The setting and the file stand in the reason; no connection is tried."""
    with HostileServer(hostile.silent) as server:
        policy = TLSPolicy("verify-full", "/nowhere/ca.pem")
        result = probe(split_url(server.url()), policy, DEADLINE)
    assert result.kind is Failure.TLS
    assert "/nowhere/ca.pem" in result.reason
    assert "DB_SSLROOTCERT" in result.reason


def test_a_unix_socket_that_is_not_there_is_a_refusal(tmp_path: Path) -> None:
    """The reason names the socket's path."""
    address = replace(split_url("postgresql://u:secret@x/d"), host=str(tmp_path))
    result = probe(address, PLAIN, DEADLINE)
    assert result.kind is Failure.REFUSED
    assert ".s.PGSQL.5432" in result.reason
