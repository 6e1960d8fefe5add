# SPDX-License-Identifier: Apache-2.0
"""Reverse proxies that the operator names: whose requests they hand on, and what those may do."""

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

from edgepaas.web.access.locality import IS_LOCAL

#: Addresses in one X-Forwarded-For that are looked at, from its end.
_MOST_HOPS = 20


class TrustedProxies:
    """The addresses and networks of TRUSTED_PROXIES.

    What comes from one of them is a client's beyond the box, wherever the proxy itself runs:
    behind a proxy loopback is not loopback. A Unix socket counts as loopback.
    """

    def __init__(self, addresses: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(each, strict=False) for each in addresses]
        self._known: dict[str, bool] = {}

    def __contains__(self, address: str) -> bool:
        """Whether *address* is a proxy's."""
        if not self._networks:
            return False
        known = self._known.get(address)
        if known is None:
            known = self._find(address)
            if len(self._known) < 1024:
                self._known[address] = known
        return known

    def client(self, address: str, forwarded_for: str) -> str:
        """Return whose request a proxy at *address* hands on: the last that is no proxy's.

        What stands before it in X-Forwarded-For the client may have made up.
        """
        for hop in reversed(forwarded_for.split(",")[-_MOST_HOPS:]):
            found = _address(hop)
            if found is None:
                break
            address = str(found)
            if address not in self:
                break
        return address

    def _find(self, address: str) -> bool:
        found = _address("127.0.0.1" if address in ("", "localhost") else address)
        return found is not None and any(found in network for network in self._networks)


class ClientAddresses:
    """WSGI middleware: what *proxies* hand on has the client's address, and is never local."""

    def __init__(self, app: Callable[..., Iterable[bytes]], proxies: TrustedProxies) -> None:
        self._app = app
        self._proxies = proxies

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        address = environ.get("REMOTE_ADDR", "")
        if address in self._proxies:
            environ[IS_LOCAL] = False
            given = environ.get("HTTP_X_FORWARDED_FOR", "")
            environ["REMOTE_ADDR"] = self._proxies.client(address, given)
        return self._app(environ, start_response)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address in *text*, perhaps with a port; None for what is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
