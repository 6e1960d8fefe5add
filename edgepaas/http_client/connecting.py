# SPDX-License-Identifier: Apache-2.0
"""Where a request goes, and a socket that is connected there before the deadline."""

import contextlib
import socket
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

from edgepaas.http_client.answers import HttpFailure
from edgepaas.http_client.racing import connect_first
from edgepaas.timing.deadline import Scope

_PORTS = {"http": 80, "https": 443}


class Target(NamedTuple):
    """What a URL names: *path* with the query, *host* without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """What two URLs have in common that name the same server."""
        return self.scheme, self.host.lower(), self.port


def target_of(url: str) -> Target:
    """Return what *url* names; HttpFailure ("address") unless it is one of http or https."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
        host = parts.hostname or ""
    except ValueError:  # a port that is no number, an unclosed bracket
        raise HttpFailure("address", "is no address of a web server") from None
    if not port or not host:
        raise HttpFailure("address", "is no address of a web server (http://… or https://…)")
    path = parts.path or "/"
    return Target(parts.scheme, host, port, f"{path}?{parts.query}" if parts.query else path)


def connect(host: str, port: int, scope: Scope) -> socket.socket:
    """Return a socket that is connected to one of *host*'s addresses, guarded by *scope*.

    The addresses are tried side by side, so that one which swallows packets takes no time from
    the others. Raises OSError (of the last address), OutOfTime.
    """
    scope.enter("resolve the name")
    sock = connect_first(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), scope)
    try:
        scope.guard(sock)
        # Head and body are two writes; waiting for the first one's echo costs 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(scope.enter("connect"))
    except BaseException:
        sock.close()
        raise
    return sock


def trust(cafile: str = "") -> ssl.SSLContext:
    """Return what servers are judged by: the system's authorities, or the one in *cafile*."""
    return ssl.create_default_context(cafile=cafile or None)


def secured(sock: socket.socket, host: str, context: ssl.SSLContext, scope: Scope) -> socket.socket:
    """Return *sock* under TLS with *host*; raises ssl.SSLError, OSError, OutOfTime."""
    scope.enter("agree on TLS")
    try:
        return context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        with contextlib.suppress(OSError):
            sock.close()
        raise
