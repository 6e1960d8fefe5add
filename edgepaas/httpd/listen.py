# SPDX-License-Identifier: Apache-2.0
"""The listening sockets: handed down (sd_listen_fds(3)), or bound here."""

import errno
import ipaddress
import os
import socket
import stat
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgepaas.errors import EdgePaaSError
from edgepaas.httpd.port_holder import port_holder
from edgepaas.settings.own_url import publication, url_at

#: The first descriptor that is handed down (SD_LISTEN_FDS_START).
FIRST_DESCRIPTOR = 3
#: Connections that may wait in the kernel while the chain goes round (at most net.core.somaxconn).
BACKLOG = 1024
#: How the kernel writes an IPv4 client of a socket that takes both families.
_MAPPED = "::ffff:"
#: Seconds to wait for a port: the process before this one closes it within moments.
BIND_PATIENCE = 1.0


class ListenError(EdgePaaSError):
    """The service cannot listen on its address; names it, why, and which process has it."""


@dataclass(frozen=True)
class Listening:
    """Sockets that listen, and whether a parent keeps them open when this process ends."""

    sockets: tuple[socket.socket, ...]
    inherited: bool

    @property
    def addresses(self) -> tuple[str, ...]:
        """Each socket's address as an URL that a person can open."""
        return tuple(_url(sock) for sock in self.sockets)

    @property
    def publication(self) -> str:
        """What ``run/address`` is to hold: of the first socket."""
        name = self.sockets[0].getsockname()
        if self.sockets[0].family == socket.AF_UNIX:
            return f"unix:{name}\n"
        return publication(name[0], name[1])


def listening_sockets(
    environ: MutableMapping[str, str], host: str, port: int, *, pid: int, may_bind: bool = True
) -> Listening:
    """Return the sockets handed down to the process *pid*, else ones bound to *host* and *port*.

    Raises ListenError. What was handed down but cannot be used is an error, never a
    reason to bind: a server that binds its own socket hides that the shared one is dead.
    Without *may_bind*, nothing handed down is one too.
    """
    inherited = inherited_sockets(environ, pid=pid)
    if inherited:
        return Listening(tuple(inherited), inherited=True)
    if not may_bind:
        raise ListenError(_not_handed_down(host, port))
    return Listening(tuple(bind(host, port)), inherited=False)


def address_mismatch(listening: Listening, host: str, port: int) -> str:
    """Return how the sockets differ from HOST and PORT, "" when they do not.

    A host that is a name is not resolved for this; only its port is compared.
    """
    bound = [
        sock.getsockname()[:2]
        for sock in listening.sockets
        if sock.family in (socket.AF_INET, socket.AF_INET6)
    ]
    if not bound:
        return ""  # a Unix socket is never by accident
    for address, number in bound:
        if number == port and (not _is_address(host) or _same_address(address, host)):
            return ""
    return (
        f"HOST={host} PORT={port} is set, but the socket that was handed down listens on "
        f"{bound[0][0]} port {bound[0][1]}"
    )


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _same_address(bound: str, host: str) -> bool:
    everywhere = ("0.0.0.0", "::")
    if host in everywhere:
        return bound in everywhere
    try:
        return ipaddress.ip_address(bound) == ipaddress.ip_address(host)
    except ValueError:
        return True  # an address of a kind that is not known here


def inherited_sockets(environ: MutableMapping[str, str], *, pid: int) -> list[socket.socket]:
    """Take the sockets that LISTEN_FDS announces out of *environ*; none if it means others."""
    for_whom = environ.pop("LISTEN_PID", "")
    announced = environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if not announced or for_whom != str(pid):
        return []
    if not announced.isdigit() or not 0 < int(announced) < 100:
        raise ListenError(f"LISTEN_FDS={announced} is not a number of sockets")
    return [_adopt(FIRST_DESCRIPTOR + index) for index in range(int(announced))]


def bind(host: str, port: int, *, patience: float = BIND_PATIENCE) -> list[socket.socket]:
    """Listen on every address of *host* (``::`` is both families); port 0 lets the kernel choose.

    Waits up to *patience* seconds for a port that is taken. Raises ListenError, which
    names HOST, PORT and, where it is visible, who has the port.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return _bind_all(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise ListenError(_explained(host, port, error)) from error
            time.sleep(0.05)


def plain_address(address: Sequence[Any]) -> Sequence[Any]:
    """Return a client's *address*, of IPv4 as such where the socket is of both families.

    Limits, logs and tokens are about a client, who is not another one under ``::ffff:10.0.0.7``.
    """
    host = address[0] if address else ""
    if isinstance(host, str) and host.startswith(_MAPPED) and "." in host:
        return (host.removeprefix(_MAPPED), *address[1:2])
    return address


def _bind_all(host: str, port: int) -> list[socket.socket]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    refused: OSError | None = None
    for family, *_, address in dict.fromkeys(found):
        try:
            bound.append(_bind_one(family, address, port or _port_of(bound)))
        except OSError as error:
            # 'localhost' may name an ::1 that a box without IPv6 does not have.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for sock in bound:
                    sock.close()
                raise
            refused = error
    if not bound and refused is not None:
        if host == "::":  # the kernel has no IPv6: every address there is
            return _bind_all("0.0.0.0", port)
        raise refused
    return bound


def _bind_one(family: int, address: Sequence[object], port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            alone = address[0] != "::"
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, alone)
        sock.bind((address[0], port, *address[2:]))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _port_of(bound: Sequence[socket.socket]) -> int:
    return int(bound[0].getsockname()[1]) if bound else 0


def _not_handed_down(host: str, port: int) -> str:
    who = port_holder(port)
    taken = f"; the port is taken by {who}" if who else ""
    return (
        f"HOST={host} PORT={port}: no socket was handed down to this service{taken}; "
        "'systemctl status edgepaas.socket' says why"
    )


def _explained(host: str, port: int, error: OSError) -> str:
    where = f"HOST={host} PORT={port}"
    if error.errno == errno.EADDRINUSE:
        who = port_holder(port)
        by = f" by {who}" if who else ""
        return f"{where}: the port is taken{by}; end that, or set another PORT"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: this box has no such address; set HOST to one it has, or to ::"
    if error.errno == errno.EACCES:
        return f"{where}: this user may not listen there; set a PORT above 1023"
    if isinstance(error, socket.gaierror):
        return f"{where}: the name cannot be resolved ({error.strerror}); set HOST to an address"
    return f"{where}: cannot listen there: {error.strerror or error}"


def _adopt(descriptor: int) -> socket.socket:
    try:
        is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError as error:
        raise ListenError(
            f"LISTEN_FDS announces descriptor {descriptor}, which is not open: {error.strerror}"
        ) from error
    if not is_socket:
        raise ListenError(f"LISTEN_FDS announces descriptor {descriptor}, which is no socket")
    sock = socket.socket(fileno=descriptor)
    if sock.type != socket.SOCK_STREAM or sock.family not in (
        socket.AF_INET,
        socket.AF_INET6,
        socket.AF_UNIX,
    ):
        raise ListenError(
            f"LISTEN_FDS announces descriptor {descriptor}, which is no stream socket"
        )
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ListenError(f"LISTEN_FDS announces descriptor {descriptor}, which does not listen")
    os.set_inheritable(descriptor, False)
    sock.setblocking(False)
    return sock


def _url(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return url_at(name[0], name[1])
