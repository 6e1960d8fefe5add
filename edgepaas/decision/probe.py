# SPDX-License-Identifier: Apache-2.0
"""Asking PostgreSQL whether it would do: it answers, is new enough, and takes a write."""

import re
import socket
import time
from dataclasses import dataclass
from typing import Any

from edgepaas.decision.further_connections import FurtherConnections
from edgepaas.pgdriver.connection import (
    close_quietly,
    end_left_behind,
    log_in,
)
from edgepaas.pgdriver.failures import (
    ConnectFailure,
    Failure,
    classify,
    is_lost,
    server_message,
    sqlstate,
)
from edgepaas.pgdriver.hosts import endpoint_of, out_of_time, try_hosts
from edgepaas.pgdriver.pg8000_adapter import load_driver, server_version, simple_query
from edgepaas.pgdriver.session_settings import prepare_session
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.pgdriver.wire import Resolver, silent_failure
from edgepaas.settings.urls import Address
from edgepaas.timing.deadline import OutOfTime, Scope, within
from edgepaas.timing.link import Link

#: The oldest version that is tested against; older ones get no fixes from their makers
#: (https://www.postgresql.org/support/versioning/).
OLDEST_VERSION = 13

EXAMINATION = "examination"
_NAME = "edgepaas dbdecide"

# One message, hence one transaction and one round trip. The table's rows in the catalogue
# are written and logged like any row, and the commit waits for the disk (and for a
# synchronous standby), so a full disk, a read-only database and a commit that never
# returns all show here; pg_current_xact_id() alone would write nothing.
_WRITE = (
    "CREATE TEMPORARY TABLE edgepaas_probe (n integer) ON COMMIT DROP; "
    "INSERT INTO edgepaas_probe VALUES (1)"
)
#: A hardened database grants TEMPORARY to no user: this logs a record without it.
_WRITE_WITHOUT_TABLE = "SELECT pg_logical_emit_message(true, 'edgepaas', 'probe')"


@dataclass(frozen=True)
class ProbeResult:
    """What one or several attempts found; ``reason`` is one line for a person."""

    usable: bool
    reason: str
    kind: Failure | None = None
    #: E.g. ``15.18``; empty when the server never said.
    server_version: str = ""
    #: Whether trying again within seconds is pointless.
    permanent: bool = False


def probe(
    address: Address,
    tls: TLSPolicy,
    attempt_timeout: float,
    *,
    connections: int = 1,
    until: float | None = None,
    resolve: Resolver = socket.getaddrinfo,
    link: Link | None = None,
) -> ProbeResult:
    """Make one attempt within *attempt_timeout* seconds, a real deadline for all of it.

    A server whose first answers show that the link is slow gets the time that the round trips
    of an attempt take there, but not beyond the moment *until* (time.monotonic()); they are
    measured into *link*.

    Usable is a server that lets us in, is PostgreSQL 13 or newer, is no standby, commits a
    write, and refuses none of *connections* at once. The first of them ends the sessions that
    this box left behind there. Never raises for anything that the other side does.
    """
    load_driver()

    def work(scope: Scope, host: Address) -> tuple[str, str]:
        connection = log_in(scope, host, tls, _NAME, resolve, link=link)
        try:
            _begin_session(scope, host, connection)
            with FurtherConnections(
                connections - 1, lambda seconds: _log_in_within(seconds, host, tls, resolve)
            ).opened(scope) as further:
                version = _examine(scope, host, connection)
                further.require(scope, endpoint_of(host))
            return endpoint_of(host), version
        finally:
            close_quietly(connection)

    try:
        longest = None if until is None else until - time.monotonic()
        place, version = try_hosts(
            address, attempt_timeout, work, discard=lambda _found: None, longest=longest
        )
    except ConnectFailure as failure:
        return ProbeResult(
            usable=False, reason=str(failure), kind=failure.kind, permanent=failure.permanent
        )
    return ProbeResult(
        usable=True,
        reason=f"PostgreSQL {version} at {place} answers and takes writes",
        server_version=version,
    )


def _log_in_within(seconds: float, host: Address, tls: TLSPolicy, resolve: Resolver) -> Any:
    def work(scope: Scope) -> Any:
        return log_in(scope, host, tls, _NAME, resolve)

    try:
        return within(seconds, work, discard=close_quietly)
    except OutOfTime as late:
        raise out_of_time(host, late) from None


def _begin_session(scope: Scope, address: Address, connection: Any) -> None:
    """Look whether the server is one to be used, and end what this box left behind there."""
    place = endpoint_of(address)
    version = _version(connection)
    major = re.match(r"\d+", version)
    if major and int(major[0]) < OLDEST_VERSION:
        raise ConnectFailure(
            Failure.TOO_OLD,
            f"{place} runs PostgreSQL {version}; {OLDEST_VERSION} or newer is needed",
        )
    connection.link.settimeout(scope.enter(EXAMINATION))
    try:
        prepare_session(connection, address, {}, must_be_writable=True)
        connection.link.settimeout(scope.enter(EXAMINATION))
        end_left_behind(connection)
    except Exception as error:
        raise _unusable(place, error, scope.seconds) from error


def _examine(scope: Scope, address: Address, connection: Any) -> str:
    try:
        _write(scope, connection)
    except Exception as error:
        raise _unusable(endpoint_of(address), error, scope.seconds) from error
    return _version(connection) or "(version unknown)"


def _version(connection: Any) -> str:
    return server_version(connection).split(" ")[0]


def _write(scope: Scope, connection: Any) -> None:
    connection.link.settimeout(scope.enter(EXAMINATION))
    try:
        simple_query(connection, _WRITE)
    except Exception as error:
        if classify(error) is not Failure.PERMISSION:
            raise
        simple_query(connection, _WRITE_WITHOUT_TABLE)


def _unusable(place: str, error: Exception, seconds: float) -> Exception:
    if isinstance(error, (ConnectFailure, OutOfTime)):
        return error
    if sqlstate(error) is not None:
        return ConnectFailure(
            classify(error),
            f"{place} does not take a write: {server_message(error)} (SQLSTATE {sqlstate(error)})",
        )
    if isinstance(error, TimeoutError):
        return silent_failure(place, EXAMINATION, seconds)
    if is_lost(error):
        return ConnectFailure(Failure.OTHER, f"{place} closed the connection after the login")
    return ConnectFailure(
        Failure.NOT_POSTGRES,
        f"what answers on {place} does not behave like PostgreSQL ({type(error).__name__})",
    )
