# SPDX-License-Identifier: Apache-2.0
"""The probe and the connections against a real PostgreSQL, in each way in which it is unusable."""

import os
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from edgepaas.decision.further_connections import connections_needed
from edgepaas.decision.probe import ProbeResult, probe
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.pgdriver.connection import bounded, connect
from edgepaas.pgdriver.failures import Failure, is_lost, sqlstate
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings import Address, split_url
from tests.support.postgres_server import PostgresServer, temporary_home
from tests.support.service_process import until
from tests.support.tls_front import tls_front

PLAIN = TLSPolicy("disable")
#: Generous: what is measured is that the attempt ends, not how fast the machine is.
DEADLINE = 20.0


def ask(url: str | Address, tls: TLSPolicy = PLAIN, deadline: float = DEADLINE) -> ProbeResult:
    """One attempt."""
    return probe(split_url(url) if isinstance(url, str) else url, tls, deadline)


@pytest.fixture
def role(postgres: PostgresServer) -> Iterator[str]:
    """A role with a password and no rights beyond everybody's."""
    name = "plain_role"
    postgres.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'tr0ub4dor'")
    yield name
    postgres.execute(f"DROP ROLE {name}")


def test_a_good_server_is_usable_and_nothing_is_left_in_it(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """The probe writes, yet leaves no table behind."""
    result = ask(postgres_url)
    assert result.usable, result.reason
    assert int(result.server_version.split(".")[0]) >= 13
    assert "answers and takes writes" in result.reason
    name = split_url(postgres_url).database
    tables = "SELECT count(*) FROM pg_class WHERE relname = 'edgepaas_probe'"
    assert postgres.execute(tables, database=name) == [[0]]


def test_the_probe_really_writes(postgres: PostgresServer, postgres_url: str) -> None:
    """The server's log of changes has grown, by more than a look would make it."""
    ask(postgres_url)  # fills the caches, whose upkeep is logged, too
    before = postgres.execute("SELECT pg_current_wal_insert_lsn()::text, txid_current()")[0]
    ask(postgres_url)
    after = postgres.execute("SELECT pg_current_wal_insert_lsn()::text, txid_current()")[0]
    assert after[0] != before[0]
    assert int(str(after[1])) - int(str(before[1])) == 2  # the probe's, and this statement's own


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"password": "wrong"}, Failure.AUTHENTICATION),
        ({"password": ""}, Failure.AUTHENTICATION),
        ({"username": "nobody_here"}, Failure.AUTHENTICATION),
        ({"database": "not_there"}, Failure.NO_DATABASE),
    ],
    ids=str,
)
def test_what_the_server_refuses_is_told_apart(
    postgres_url: str, change: dict[str, str], kind: Failure
) -> None:
    """Trying again would not mend any of them."""
    result = ask(replace(split_url(postgres_url), **change))  # type: ignore[arg-type]
    assert (result.kind, result.permanent) == (kind, True), result.reason


def test_a_server_without_the_tls_that_is_demanded_is_refused(postgres_url: str) -> None:
    """The test's server has none."""
    result = ask(postgres_url, TLSPolicy("verify-full"))
    assert result.kind is Failure.TLS
    assert "offers no TLS" in result.reason


def test_a_database_that_is_read_only_by_default_is_not_usable(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """The reason names the parameter."""
    name = split_url(postgres_url).database
    postgres.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    result = ask(postgres_url)
    assert result.kind is Failure.READ_ONLY
    assert "default_transaction_read_only" in result.reason


def test_a_role_without_temporary_tables_is_usable_all_the_same(
    postgres: PostgresServer, postgres_url: str, role: str
) -> None:
    """A hardened database takes that right away from everybody."""
    address = replace(split_url(postgres_url), username=role, password="tr0ub4dor")
    assert ask(address).usable
    postgres.execute(f'REVOKE TEMPORARY ON DATABASE "{address.database}" FROM PUBLIC')
    result = ask(address)
    assert result.usable, result.reason


def test_a_role_that_may_not_connect_is_told_so(
    postgres: PostgresServer, postgres_url: str, role: str
) -> None:
    """42501: the operator has to grant it."""
    address = replace(split_url(postgres_url), username=role, password="tr0ub4dor")
    postgres.execute(f'REVOKE CONNECT ON DATABASE "{address.database}" FROM PUBLIC')
    result = ask(address)
    assert result.kind is Failure.PERMISSION
    assert "permission denied" in result.reason


def test_too_many_connections_are_worth_another_attempt(
    postgres: PostgresServer, postgres_url: str, role: str
) -> None:
    """53300: somebody else may hang up."""
    postgres.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    address = replace(split_url(postgres_url), username=role, password="tr0ub4dor")
    result = ask(address)
    assert (result.kind, result.permanent) == (Failure.BUSY, False), result.reason


@pytest.mark.parametrize(("limit", "needed", "usable"), [(2, 3, False), (3, 3, True), (2, 2, True)])
def test_a_server_with_fewer_connections_than_are_needed_is_busy(
    postgres: PostgresServer, postgres_url: str, role: str, limit: int, needed: int, *, usable: bool
) -> None:
    """It let the one attempt in, and then the service failed at its gate."""
    postgres.execute(f"ALTER ROLE {role} CONNECTION LIMIT {limit}")
    address = replace(split_url(postgres_url), username=role, password="tr0ub4dor")
    result = probe(address, PLAIN, DEADLINE, connections=needed)
    assert result.usable is usable, result.reason
    if not usable:
        assert (result.kind, result.permanent) == (Failure.BUSY, False)
        assert f"has not the {needed} connections that this box needs" in result.reason
    left = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'"
    until(lambda: postgres.execute(left) == [[0]], "the end of the attempt's connections", 60)


def test_the_drainer_s_own_connection_is_not_asked_for_twice(paths: Paths) -> None:
    """It lives on while the chain decides anew, and has its connection."""
    assert connections_needed(paths.sync_lock) == 3
    assert connections_needed(paths.sync_lock, delivers=False) == 2
    with held(paths.sync_lock):
        assert connections_needed(paths.sync_lock) == 2


def test_a_unix_socket_is_a_way_in(postgres: PostgresServer, postgres_url: str) -> None:
    """``?host=/run/postgresql``."""
    assert ask(replace(split_url(postgres_url), host=str(postgres.home))).usable


# --- connections --------------------------------------------------------------------


def test_a_connection_is_tuned_and_has_no_timeout_of_its_own(postgres_url: str) -> None:
    """TCP_NODELAY, keepalive, TCP_USER_TIMEOUT; the statement timeout is the server's."""
    connection = connect(
        split_url(postgres_url), deadline=DEADLINE, tls=PLAIN, statement_timeout=0.3
    )
    link = connection.link
    assert link.gettimeout() is None
    assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > 0
    cursor = connection.cursor()
    with pytest.raises(Exception, match="statement timeout") as caught:
        cursor.execute("SELECT pg_sleep(60)")
    assert sqlstate(caught.value) == "57014"
    assert not is_lost(caught.value)
    connection.rollback()
    cursor.execute("SHOW statement_timeout")  # a rollback did not take it back
    assert cursor.fetchall() == (["300ms"],)
    connection.close()


def test_a_slow_valid_query_outlives_the_deadline_of_its_connection(postgres_url: str) -> None:
    """The deadline is for connecting alone."""
    connection = connect(split_url(postgres_url), deadline=1.0, tls=PLAIN)
    cursor = connection.cursor()
    cursor.execute("SELECT 7 FROM pg_sleep(1.5)")
    assert cursor.fetchall() == ([7],)
    connection.close()


def test_a_bounded_statement_is_cut_off(postgres_url: str) -> None:
    """The error counts as a loss; in time, nothing happens to the connection."""
    connection = connect(split_url(postgres_url), deadline=DEADLINE, tls=PLAIN)
    cursor = connection.cursor()
    with bounded(connection, DEADLINE):
        cursor.execute("SELECT 1")
    begin = time.monotonic()
    with pytest.raises(Exception) as caught, bounded(connection, 0.3):
        cursor.execute("SELECT pg_sleep(30)")
    assert is_lost(caught.value)
    assert time.monotonic() - begin < DEADLINE
    with pytest.raises(Exception) as again:
        cursor.execute("SELECT 1")
    assert is_lost(again.value)


def test_a_server_that_ends_is_a_loss(postgres: PostgresServer, postgres_url: str) -> None:
    """57P01 while it says so, the link's error afterwards."""
    connection = connect(split_url(postgres_url), deadline=DEADLINE, tls=PLAIN)
    name = split_url(postgres_url).database
    postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )
    for _ in range(2):
        with pytest.raises(Exception) as caught:
            connection.cursor().execute("SELECT 1")
        assert is_lost(caught.value)


# --- servers of other kinds ---------------------------------------------------------


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A cluster of this test's own, created and not started."""
    server = PostgresServer(temporary_home())
    try:
        server.create_cluster()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.home)


def own_file(server: PostgresServer, path: Path, content: bytes) -> None:
    """Write a file that belongs to whom the server runs as, readable by nobody else."""
    path.write_bytes(content)
    owner = server.data.stat()
    os.chown(path, owner.st_uid, owner.st_gid)
    path.chmod(0o600)


def test_a_standby_is_not_usable(own_server: PostgresServer) -> None:
    """It answers and reads, and takes no write."""
    own_file(own_server, own_server.data / "standby.signal", b"")
    own_server.start("hot_standby=on", "wal_level=replica")
    result = ask(own_server.url())
    assert result.kind is Failure.READ_ONLY
    assert "standby" in result.reason


def test_a_commit_that_never_returns_is_found_out(own_server: PostgresServer) -> None:
    """A synchronous standby that is away hangs every COMMIT, though every SELECT works."""
    own_server.start("synchronous_commit=on", "synchronous_standby_names=gone")
    result = ask(own_server.url(), deadline=2.0)
    assert result.kind is Failure.SILENT
    assert "examination" in result.reason


@pytest.fixture
def tls_address(own_server: PostgresServer, tmp_path: Path) -> Iterator[tuple[Address, Path]]:
    """A server that speaks TLS, by itself or through a front, and its authority's certificate."""
    authority = trustme.CA()
    root = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(root))
    good = authority.issue_cert("127.0.0.1")
    own_file(own_server, own_server.home / "key.pem", good.private_key_pem.bytes())
    own_file(own_server, own_server.home / "cert.pem", good.cert_chain_pems[0].bytes())
    try:
        own_server.start(
            "ssl=on", f"ssl_cert_file={own_server.home}/cert.pem",
            f"ssl_key_file={own_server.home}/key.pem",
        )  # fmt: skip
    except RuntimeError:
        if "SSL is not supported by this build" not in own_server.log_tail():
            raise
        own_server.start()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        good.configure_cert(context)
        with tls_front(context, own_server.port) as port:
            yield replace(split_url(own_server.url()), port=port), root
    else:
        yield split_url(own_server.url()), root


def test_the_certificate_of_a_real_server_is_checked(tls_address: tuple[Address, Path]) -> None:
    """verify-full asks for the right name by the right authority, verify-ca for the latter."""
    address, root = tls_address
    strict = TLSPolicy("verify-full", str(root))
    result = ask(address, strict)
    assert result.usable, result.reason
    connection = connect(address, deadline=DEADLINE, tls=strict)
    assert isinstance(connection.link, ssl.SSLSocket)
    connection.close()
    # The same address, spelt as the certificate does not (and no name has to be resolved).
    wrong_name = replace(address, host="127.1")
    assert ask(wrong_name, strict).kind is Failure.TLS
    assert ask(address, TLSPolicy("verify-full")).kind is Failure.TLS
    assert probe(wrong_name, TLSPolicy("verify-ca", str(root)), DEADLINE).usable
