# SPDX-License-Identifier: Apache-2.0
"""The way to the server below its protocol: name, TCP or Unix socket, TLS, first answer."""

import errno
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from edgepaas.pgdriver.failures import ConnectFailure, Failure
from edgepaas.pgdriver.login_socket import (
    CheckedSocket,
    LoginSocket,
    not_postgres,
    tls_socket_class,
)
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings.urls import Address
from edgepaas.timing.deadline import Scope
from edgepaas.timing.link import LOGIN_TRIPS, Link

if TYPE_CHECKING:
    import ssl

#: What socket.getaddrinfo takes and gives; another one can be injected.
Resolver = Callable[..., list[tuple[Any, ...]]]

RESOLVING = "resolving"
CONNECTING = "connecting"
TLS_HANDSHAKE = "TLS handshake"

#: A name with more addresses than this would leave none of them a fair share of the time.
_MOST_ADDRESSES = 8

# Linux notices a dead peer after two hours by default; these find it within half a minute.
_KEEPALIVE_IDLE = 10
_KEEPALIVE_INTERVAL = 5
_KEEPALIVE_COUNT = 3
#: Milliseconds that sent data may stay unacknowledged (tcp(7), TCP_USER_TIMEOUT).
_USER_TIMEOUT = 10_000

#: The same for the server's end, which would else keep the session of a box that vanished, with
#: its locks, for two hours (PostgreSQL manual, 20.3.2 "TCP Settings").
SERVER_TCP_SETTINGS = {
    "tcp_keepalives_idle": _KEEPALIVE_IDLE,
    "tcp_keepalives_interval": _KEEPALIVE_INTERVAL,
    "tcp_keepalives_count": _KEEPALIVE_COUNT,
    "tcp_user_timeout": _USER_TIMEOUT,
}

#: SSLRequest: length 8, code 80877103 (PostgreSQL manual, 55.7 "Message Formats").
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def open_link(
    scope: Scope,
    address: Address,
    tls: TLSPolicy,
    resolve: Resolver = socket.getaddrinfo,
    link: Link | None = None,
) -> LoginSocket:
    """Return a connected socket, in TLS where *tls* wants it; raises ConnectFailure.

    Its timeout is what is left of *scope*, which guards it from now on. Round trips are
    measured into *link*; where they are long, *scope* is extended by what a login takes then.
    """
    context = tls.context()
    began = time.monotonic()
    sock = _connect(scope, address, resolve)
    sock.heard = _heard(scope, link or Link(), time.monotonic() - began)
    try:
        if context is None or address.unix_socket:
            return sock
        return _negotiate_tls(scope, sock, address, tls, context)
    except BaseException:
        sock.close()
        raise


def _heard(scope: Scope, link: Link, connected: float) -> Callable[[float], None]:
    """Return what takes note of answers; *connected*: seconds that the TCP connection took.

    A tunnel or proxy takes a connection before it has its own, and the first answer then comes
    after two round trips: it and the connection are two, wherever they were spent.
    """
    answered = False

    def heard(seconds: float) -> None:
        """Take note that the other side answered after *seconds*."""
        nonlocal answered
        if not answered:
            answered, seconds = True, (min(connected, seconds) + seconds) / 2
        link.measured(seconds)
        scope.extend(link.limit(0.0, LOGIN_TRIPS))

    return heard


def _connect(scope: Scope, address: Address, resolve: Resolver) -> CheckedSocket:
    if address.unix_socket:
        candidates: list[tuple[Any, ...]] = [
            (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", address.unix_socket)
        ]
    else:
        candidates = _addresses(scope, address, resolve)
    errors: list[OSError] = []
    for position, (family, kind, protocol, _, target) in enumerate(candidates):
        left = scope.enter(CONNECTING)
        sock = CheckedSocket(family, kind, protocol)
        try:
            # Each address gets its share; what one does not use, the next ones have.
            sock.settimeout(left / (len(candidates) - position))
            sock.connect(target)
            if family != socket.AF_UNIX:
                _tune(sock)
            scope.guard(sock)
            return sock
        except OSError as error:
            sock.close()
            errors.append(error)
        except BaseException:
            sock.close()
            raise
    raise _not_connected(address, errors, scope.seconds)


def _addresses(scope: Scope, address: Address, resolve: Resolver) -> list[tuple[Any, ...]]:
    scope.enter(RESOLVING)
    name = address.params.get("hostaddr") or address.host
    try:
        found = resolve(name, address.port, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise ConnectFailure(
            Failure.DNS,
            f"the name {name} cannot be resolved ({text or error}); "
            "check the host in DATABASE_URL and this box's name servers",
        ) from error
    return list(dict.fromkeys(found))[:_MOST_ADDRESSES]


def _not_connected(address: Address, errors: list[OSError], seconds: float) -> ConnectFailure:
    place = address.unix_socket or f"{address.host}:{address.port}"
    refused = (ConnectionRefusedError, FileNotFoundError)
    if errors and all(isinstance(error, refused) for error in errors):
        return ConnectFailure(
            Failure.REFUSED,
            f"{place} refuses the connection: nothing listens there; "
            "check host and port in DATABASE_URL, and whether the server runs",
        )
    if address.unix_socket and errors:
        if isinstance(errors[0], PermissionError):
            return ConnectFailure(
                Failure.PERMISSION, f"{place} does not admit this user; check its mode and owner"
            )
        if errors[0].errno == errno.EAGAIN:
            return ConnectFailure(
                Failure.BUSY, f"{place} takes no connection now: its queue is full"
            )
    worst = next((e for e in errors if not isinstance(e, refused)), None)
    if worst is None or isinstance(worst, TimeoutError):
        return unreachable_failure(place, seconds)
    return ConnectFailure(
        Failure.UNREACHABLE,
        f"{place} cannot be reached ({worst.strerror or worst}); check cable, route and firewall",
    )


def unreachable_failure(place: str, seconds: float) -> ConnectFailure:
    """Return the failure of a place from which no packet came back."""
    return ConnectFailure(
        Failure.UNREACHABLE,
        f"{place} cannot be reached: no answer within {seconds:g} s; "
        "check cable, route and firewall",
    )


def _tune(sock: socket.socket) -> None:
    # Without it a statement of several rows waits 40 ms for a delayed acknowledgement.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)


def _negotiate_tls(
    scope: Scope,
    sock: CheckedSocket,
    address: Address,
    tls: TLSPolicy,
    context: "ssl.SSLContext",
) -> LoginSocket:
    import ssl

    place = f"{address.host}:{address.port}"
    sock.settimeout(scope.enter(TLS_HANDSHAKE))
    try:
        began = time.monotonic()
        sock.sendall(_SSL_REQUEST)
        answer = sock.recv(1)
        if sock.heard is not None:
            sock.heard(time.monotonic() - began)
        if answer == b"S":
            sock.settimeout(scope.enter(TLS_HANDSHAKE))
            context.sslsocket_class = tls_socket_class()
            return cast("LoginSocket", context.wrap_socket(sock, server_hostname=address.host))
    except ssl.SSLCertVerificationError as error:
        raise _not_trusted(place, error) from error
    except TimeoutError:
        raise silent_failure(place, TLS_HANDSHAKE, scope.seconds) from None
    except (ssl.SSLEOFError, ConnectionError) as error:
        raise ConnectFailure(
            Failure.TLS, f"{place} closed the connection in the TLS handshake", permanent=False
        ) from error
    except ssl.SSLError as error:
        if error.reason == "WRONG_VERSION_NUMBER":  # no TLS record: the S meant something else
            raise not_postgres(answer) from error
        raise ConnectFailure(
            Failure.TLS, f"the TLS handshake with {place} failed: {error.reason or error}"
        ) from error
    if answer == b"N":
        if not tls.required:
            return sock
        raise ConnectFailure(
            Failure.TLS,
            f"{place} offers no TLS and {tls.mode} is demanded; switch it on there, or set "
            "DB_SSLMODE=disable if the link is private to the two machines",
        )
    if answer == b"":
        raise ConnectFailure(Failure.OTHER, f"{place} closed the connection without an answer")
    if answer == b"E":  # too many processes to start one for us, or older than TLS
        raise ConnectFailure(Failure.BUSY, f"{place} answered the request for TLS with an error")
    raise not_postgres(answer)


def silent_failure(place: str, stage: str, seconds: float) -> ConnectFailure:
    """Return the failure of a server that took the connection and did not finish *stage*."""
    return ConnectFailure(
        Failure.SILENT,
        f"{place} took the connection but did not finish the {stage} within {seconds:g} s",
    )


_NOT_YET_VALID = 9
_OF_AN_UNKNOWN_CA = "name its CA in DB_SSLROOTCERT"
_OF_ANOTHER_NAME = "use the host name that the certificate has"
#: By verify_code (openssl-verification-options(1)): what is to be done about this cause.
_WAYS_OUT = {
    _NOT_YET_VALID: "this box's clock is probably wrong",
    10: "it has expired: renew it on the server (unless this box's clock is ahead)",
    62: _OF_ANOTHER_NAME,
    64: _OF_ANOTHER_NAME,
}


def _not_trusted(place: str, error: "ssl.SSLCertVerificationError") -> ConnectFailure:
    # X509_V_ERR_CERT_NOT_YET_VALID (openssl-verification-options(1)): a box without a
    # clock battery starts in the past; once the time is set the certificate is good.
    early = error.verify_code == _NOT_YET_VALID
    way_out = _WAYS_OUT.get(error.verify_code, _OF_AN_UNKNOWN_CA)
    return ConnectFailure(
        Failure.TLS,
        f"the certificate of {place} is not trusted: {error.verify_message}; {way_out}",
        permanent=not early,
    )
