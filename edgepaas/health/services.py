# SPDX-License-Identifier: Apache-2.0
"""Probing the services that the operator listed: does something answer at that address.

Plain sockets for what is not HTTP, each call bounded; a resolver that hangs is bounded by the
check's own thread (:mod:`edgepaas.health.checks`).
"""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas.health.checks import CheckFailed

if TYPE_CHECKING:
    from edgepaas.settings import ServiceAddress


#: Where an operator gives the password.
_WHERE = "REDIS__PASSWORD, or the service's address (redis://:PASSWORD@host:port),"


def probe_service(address: "ServiceAddress", timeout: float) -> str:
    """Return a line saying that *address* answers; CheckFailed says why it does not.

    *timeout*, in seconds, bounds the connection and each read. An HTTP server that answers
    below 500 is there; a Redis that takes no command without the right password is not.
    """
    if address.problem:
        raise CheckFailed(f"its address is not understood: {address.problem}")
    place = f"{address.scheme}://{_host(address.host)}:{address.port}"
    try:
        return _PROBES[address.scheme](address, timeout, place)
    except KeyError:
        raise CheckFailed(f"{place}: nothing here knows how to probe {address.scheme}") from None
    except TimeoutError:
        raise CheckFailed(f"{place}: no answer within {timeout:g} s") from None
    except ConnectionRefusedError:
        raise CheckFailed(f"{place}: refused, nothing listens there") from None
    except socket.gaierror as error:
        raise CheckFailed(f"{place}: the name cannot be resolved ({error.strerror})") from None
    except (OSError, ValueError) as error:
        raise CheckFailed(f"{place}: {error}") from None


def _probe_tcp(address: "ServiceAddress", timeout: float, place: str) -> str:
    with socket.create_connection((address.host, address.port), timeout=timeout):
        return f"{place} accepts connections"


def _probe_http(address: "ServiceAddress", timeout: float, place: str) -> str:
    # The standard library's transport: a box that probes does not load requests for it.
    from edgepaas.http_client import HttpFailure, fetch

    try:
        url = f"{place}{address.path or '/'}"
        # The status is the answer: a body may be large, or a stream without an end.
        status = fetch("GET", url, deadline=timeout, most_bytes=0).status
    except HttpFailure as failure:
        said = "refused, nothing listens there" if failure.kind == "refused" else str(failure)
        raise CheckFailed(f"{place}: {said}") from None
    if status >= 500:
        raise CheckFailed(f"{place}{address.path}: answers with status {status}")
    return f"{place}{address.path} answers with status {status}"


def _probe_redis(address: "ServiceAddress", timeout: float, place: str) -> str:
    with socket.create_connection((address.host, address.port), timeout=timeout) as connection:
        if address.password:
            connection.sendall(
                _command("AUTH", *filter(None, (address.username, address.password)))
            )
            said = connection.recv(128)
            # One that has no password says -ERR to AUTH, and PING then tells.
            if said.startswith((b"-WRONGPASS", b"-NOAUTH")) or b"invalid password" in said:
                raise CheckFailed(f"{place}: the password is refused; correct {_WHERE}")
        connection.sendall(_command("PING"))
        answer = connection.recv(128)
    if answer.startswith((b"+PONG", b"-NOPERM")):
        return f"{place} answers"
    if answer.startswith(b"-NOAUTH"):
        raise CheckFailed(f"{place}: it wants a password, and none is set: {_WHERE} has to hold it")
    if answer.startswith(b"-LOADING"):
        raise CheckFailed(f"{place}: Redis is loading its data")
    raise CheckFailed(f"{place}: that is no Redis")


def _command(*words: str) -> bytes:
    """Return a command as Redis reads it (RESP), whatever the words hold."""
    parts = [word.encode() for word in words]
    body = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"*%d\r\n%s" % (len(parts), body)


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


_PROBES: dict[str, Callable[["ServiceAddress", float, str], str]] = {
    "tcp": _probe_tcp,
    "http": _probe_http,
    "https": _probe_http,
    "redis": _probe_redis,
}
