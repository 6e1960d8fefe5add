# SPDX-License-Identifier: Apache-2.0
"""HTTP as a client: one set of rules for every request that the box makes.

* The deadline is real: it bounds the whole exchange, name resolution and a server that sends
  a byte now and then included.
* Every address of a name is tried within it, side by side.
* A redirect is never followed unasked: it would carry the token, or the body, elsewhere.
* The environment's proxies count only where the caller wants them, ``~/.netrc`` never.
* TLS trusts what the system trusts, or the one authority that is given.
* An answer is read up to a bound.
* A failure's message holds neither the address nor a header, since both may hold a secret.

Two transports follow them. :func:`fetch` needs the standard library alone, for what must
start quickly: the boot stages, ``edgepaas status``, and whatever asks a service on loopback.
:class:`HttpSession` is built on requests (0.1 s to import on a fast machine, 0.6 s on a small
board) and knows proxies, redirects to the same server, and connections that are kept.
"""

from edgepaas.http_client.answers import FailureKind, HttpAnswer, HttpFailure, failure_words
from edgepaas.http_client.connecting import connect as open_connection
from edgepaas.http_client.fetch import fetch
from edgepaas.http_client.session import HttpSession

__all__ = [
    "FailureKind",
    "HttpAnswer",
    "HttpFailure",
    "HttpSession",
    "failure_words",
    "fetch",
    "open_connection",
]
