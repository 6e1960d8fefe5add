# SPDX-License-Identifier: Apache-2.0
"""Where a request comes from: this very box, or beyond it."""

import ipaddress
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from flask import Request

#: A proxy on the box that forwards a request marks it with one of these.
_HANDED_ON = (
    *("FORWARDED", "X_FORWARDED_FOR", "X_FORWARDED_HOST", "X_FORWARDED_PROTO"),
    *("X_REAL_IP", "VIA"),
)
#: Characters of a Host header: a name (RFC 1035, 2.3.4) with a port.
LONGEST_HOST = 260
#: Where the answer is kept: it is asked for more than once a request.
IS_LOCAL = "edgepaas.is_local"


def is_local(request: "Request") -> bool:
    """Tell whether the request comes from a program of this box; see :func:`comes_from_box`."""
    return is_local_environ(request.environ)


def is_local_environ(environ: dict[str, Any]) -> bool:
    """Tell the same of a request by its WSGI environment."""
    known: bool | None = environ.get(IS_LOCAL)
    if known is None:
        known = environ[IS_LOCAL] = comes_from_box(
            environ.get("REMOTE_ADDR"), lambda name: environ.get(f"HTTP_{name}")
        )
    return known


def comes_from_box(address: str | None, header: Callable[[str], str | None]) -> bool:
    """Tell whether a request comes from a program of this box, for itself.

    *header* returns a header by its name in upper case with underscores. Not so: a request
    that a proxy handed on, and one that a web page made a browser send (another site's, or a
    name that was pointed at the loopback address: DNS rebinding), since those would lend a
    stranger the box's own rights.
    """
    return (
        is_loopback(address)
        and all(header(name) is None for name in _HANDED_ON)
        and (header("SEC_FETCH_SITE") or "none") in ("none", "same-origin")
        and names_loopback(header("HOST") or "")
    )


@lru_cache(maxsize=1024)  # asked twice a request, nearly always for the same few
def is_loopback(address: str | None) -> bool:
    """Tell whether *address* is the box itself; a Unix socket has the address ``localhost``."""
    if not address or address == "localhost":
        return True
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


@lru_cache(maxsize=1024)
def client_network(address: str | None) -> str:
    """Return what a client is counted under: its address, or its /64 in IPv6.

    A home network has a whole /64; counting single addresses would count nothing.
    """
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    if isinstance(found, ipaddress.IPv4Address) or found.is_loopback:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


def names_loopback(host: str) -> bool:
    """Tell whether *host*, a request's, is a name or an address that cannot be rebound."""
    # Longer ones are not remembered: a client may make up as many as it likes.
    return not host or (len(host) <= LONGEST_HOST and _names_loopback(host))


@lru_cache(maxsize=1024)
def _names_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    # No public name ends so (RFC 6761, 6.3); an address cannot be rebound.
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
