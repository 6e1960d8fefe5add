# SPDX-License-Identifier: Apache-2.0
"""Connections of pg8000 that come about within a real deadline, or not at all."""

import contextlib
import os
import pwd
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from edgepaas.pgdriver import pg8000_adapter, wire
from edgepaas.pgdriver.failures import (
    TOO_MANY_CONNECTIONS,
    ConnectFailure,
    Failure,
    classify,
    is_lost,
    server_message,
    sqlstate,
)
from edgepaas.pgdriver.flights import FlightConnection
from edgepaas.pgdriver.hosts import endpoint_of, try_hosts
from edgepaas.pgdriver.login_socket import CheckedSocket, query_message
from edgepaas.pgdriver.session_settings import examine_session, first_query
from edgepaas.pgdriver.sessions import own_sessions
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings.urls import Address
from edgepaas.timing.deadline import OutOfTime, Scope
from edgepaas.timing.link import LOGIN_TRIPS, LONGEST_ROUND_TRIP, Link

LOGIN = "login"

#: Beyond its deadline a login over a slow link may take so many seconds in all.
LONGEST_LOGIN = LOGIN_TRIPS * LONGEST_ROUND_TRIP


def connect(
    address: Address,
    *,
    deadline: float,
    tls: TLSPolicy,
    application_name: str = "edgepaas",
    statement_timeout: float | None = None,
    lock_timeout: float | None = None,
    idle_timeout: float | None = None,
    keep_timeout: float | None = None,
    keep_prepared: bool = False,
    resolve: wire.Resolver = socket.getaddrinfo,
    link: Link | None = None,
    at_once: bool = False,
) -> FlightConnection:
    """Return a connection that SQLAlchemy's pg8000 dialect works with.

    *deadline* is in seconds, for resolving, TCP, TLS and login together, and holds
    whatever the server does. Where its first answers show that the link is slow, it is
    extended by the round trips of a login, to LONGEST_LOGIN at most; they are measured into
    *link*. *at_once*: it waits for no other one that is being opened. Where *address* names
    several hosts, they are tried in their order, and one that takes no writes is passed over
    unless ``target_session_attrs=any``. *statement_timeout*, *lock_timeout* and *idle_timeout*
    (of an open transaction; all in seconds) are set in the session, at the server. The socket
    has TCP_NODELAY, and, at both ends, keepalive and TCP_USER_TIMEOUT; it has no timeout of its
    own, which would kill slow valid queries and leave the connection unusable; *keep_timeout*
    (seconds) sets one for each read. :func:`bounded` bounds single statements. *keep_prepared*:
    statements that come again stay prepared, where no pooler is in between. The connection's
    attribute ``endpoint`` names the host that answered, and ``session`` is its SessionDefaults,
    where anything is set in the session. Raises ConnectFailure.
    """
    # Outside the deadline: on a slow box it takes longer than a short one.
    pg8000_adapter.load_driver()

    bounds = {
        "statement_timeout": statement_timeout,
        "lock_timeout": lock_timeout,
        "idle_in_transaction_session_timeout": idle_timeout,
    }

    def work(scope: Scope, host: Address) -> FlightConnection:
        first = first_query(host, bounds, must_be_writable=address.must_be_writable)
        connection = log_in(scope, host, tls, application_name, resolve, link=link, first=first)
        try:
            if first:
                direct = examine_session(
                    connection, host, must_be_writable=address.must_be_writable
                )
                connection.prepared.allowed = keep_prepared and direct
            end_left_behind(connection)
            connection.link.settimeout(keep_timeout)
        except BaseException as error:
            close_quietly(connection)
            if isinstance(error, Exception):
                raise login_failure(host, error, scope.seconds) from error
            raise
        return connection

    own = own_sessions()
    longest = max(deadline, LONGEST_LOGIN)
    if own is None or at_once:
        found: FlightConnection = try_hosts(
            address, deadline, work, discard=close_quietly, longest=longest
        )
        return found
    began = time.monotonic()
    with own.turn(deadline / 2):
        left = deadline - (time.monotonic() - began)
        try:
            found = try_hosts(address, left, work, discard=close_quietly, longest=longest)
        except ConnectFailure as failure:
            own.failed(failure)
            raise
    return found


def end_left_behind(connection: Any) -> None:
    """Have *connection*, which has just been opened, end what this box left at the server."""
    own = own_sessions()
    if own is not None:
        own.opened(connection)


@contextlib.contextmanager
def bounded(connection: Any, seconds: float) -> Iterator[None]:
    """Cut *connection* off when the block takes longer than *seconds*.

    Whatever the block waits for then fails at once, with an error for which
    :func:`~edgepaas.pgdriver.failures.is_lost` is true, or TimeoutError is raised at the
    block's end; the connection is of no use afterwards. For connections of :func:`connect`.
    """
    scope = Scope(seconds)
    scope.guard(connection.link)
    timer = threading.Timer(seconds, scope.abandon)
    timer.daemon = True
    timer.start()
    try:
        yield
    except BaseException:
        scope.finish()
        raise
    else:
        if not scope.finish():
            raise TimeoutError(f"PostgreSQL did not finish within {seconds:g} s")
    finally:
        timer.cancel()


def log_in(
    scope: Scope,
    address: Address,
    tls: TLSPolicy,
    application_name: str,
    resolve: wire.Resolver = socket.getaddrinfo,
    *,
    link: Link | None = None,
    first: str = "",
) -> FlightConnection:
    """Open a connection to the first host of *address* inside *scope*.

    *first* is a simple query that travels with the end of the login where that is possible;
    its rows are the connection's attribute ``first_rows``. For work that does more under one
    deadline than :func:`connect`. The connection's socket is its attribute ``link``, and
    ``endpoint`` names the host. Round trips are measured into *link*. Raises ConnectFailure
    or OutOfTime.
    """
    sock = wire.open_link(scope, address, tls, resolve, link)
    try:
        sock.settimeout(scope.enter(LOGIN))
        if first:
            sock.behind_password = query_message(first)
        user = address.username or pwd.getpwuid(os.geteuid()).pw_name
        driver = pg8000_adapter.log_in(
            sock,
            user=user,
            database=address.database or user,
            password=address.password or None,
            application_name=_session_name(address, application_name),
            options=address.params.get("options"),
        )
        connection = FlightConnection(driver)
        if isinstance(sock, CheckedSocket):
            sock.heard = None  # from here on the server is given time to work
        connection.endpoint = endpoint_of(address)
        if first:
            sent = sock.sent_behind_password
            answer = connection.answer_to_sent() if sent else connection.execute_simple(first)
            connection.first_rows = answer.rows
    except BaseException as error:
        # Not close(): that waits for the driver's file object, which the error keeps alive.
        with contextlib.suppress(OSError):
            os.close(sock.detach())
        if isinstance(error, Exception) and not isinstance(error, OutOfTime):
            raise login_failure(address, error, scope.seconds) from error
        raise
    return connection


def login_failure(address: Address, raised: Exception, seconds: float) -> ConnectFailure:
    """Return what *raised*, by the driver while it logged in, means for a person."""
    error = _first_error(raised)
    if isinstance(error, ConnectFailure):
        return error
    place = endpoint_of(address)
    if sqlstate(error) is not None:
        return _connect_failure_of(address, error)
    if isinstance(error, TimeoutError):
        return wire.silent_failure(place, LOGIN, seconds)
    if is_lost(error):
        return ConnectFailure(Failure.OTHER, f"{place} closed the connection in the {LOGIN}")
    return _driver_gave_up(address, error)


def _session_name(address: Address, general: str) -> str:
    given = address.params.get("application_name", "")
    own = own_sessions()
    return own.name(given or "edgepaas") if own is not None else given or general


def close_quietly(connection: Any) -> None:
    """Close a connection that may be broken; its errors are of no use."""
    with contextlib.suppress(Exception):
        connection.close()


def _connect_failure_of(address: Address, error: BaseException) -> ConnectFailure:
    kind = classify(error)
    said = server_message(error)
    place = endpoint_of(address)
    if kind is Failure.AUTHENTICATION:
        text = f"{place} does not admit user {address.username!r}: {said}; " + (
            "check the password in DATABASE_URL or DATABASE__PASSWORD"
            if sqlstate(error) == "28P01"
            else "check its pg_hba.conf and DATABASE_URL"
        )
    elif kind is Failure.NO_DATABASE:
        text = f"{place} has no such database: {said}; create it or mend DATABASE_URL"
    elif kind is Failure.BUSY:
        text = f"{place} takes no connection now: {said}"
    else:
        text = f"{place} refused the {LOGIN}: {said} (SQLSTATE {sqlstate(error)})"
    return ConnectFailure(kind, text, full=sqlstate(error) == TOO_MANY_CONNECTIONS)


def _driver_gave_up(address: Address, error: BaseException) -> ConnectFailure:
    place = endpoint_of(address)
    text = server_message(error)
    if pg8000_adapter.wants_password(error, given=bool(address.password)):
        return ConnectFailure(
            Failure.AUTHENTICATION,
            f"{place} asks for a password and none is set; "
            "put it into DATABASE_URL or DATABASE__PASSWORD",
        )
    if pg8000_adapter.cannot_authenticate(error):
        return ConnectFailure(
            Failure.AUTHENTICATION,
            f"{place} wants a way of login that is not spoken here ({text}); "
            "allow scram-sha-256 in its pg_hba.conf",
        )
    # Anything else is the driver choking on bytes that no PostgreSQL sends.
    return ConnectFailure(
        Failure.NOT_POSTGRES,
        f"what answers on {place} does not speak PostgreSQL's protocol "
        f"({type(error).__name__}); check the host and the port of DATABASE_URL",
    )


def _first_error(raised: Exception) -> BaseException:
    """Return the error that came first where pg8000's own clean-up failed and hid it.

    It sends Terminate to a server that has just refused it and closed the connection:
    "network error" is then raised while the refusal is being handled.
    """
    error: BaseException | None = raised
    while error is not None:
        if isinstance(error, ConnectFailure) or sqlstate(error) is not None:
            return error
        error = error.__context__
    return raised
