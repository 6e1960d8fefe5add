# SPDX-License-Identifier: Apache-2.0
"""What comes of a request: an answer, or a failure of one of a few kinds."""

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgepaas.errors import EdgePaaSError

#: address: the URL, or a header, is none that can be sent; name: it cannot be resolved;
#: refused: nothing listens there; unreachable: any other fault before the request was sent;
#: tls: no TLS connection that can be trusted; timeout: the deadline passed; closed: the
#: connection ended early; protocol: what answers does not speak HTTP; redirects: the server
#: points to itself again and again.
FailureKind = Literal[
    "address",
    "name",
    "refused",
    "unreachable",
    "tls",
    "timeout",
    "closed",
    "protocol",
    "redirects",
]

CUT_SHORT = "the connection was closed without a whole answer"


@dataclass(frozen=True)
class HttpAnswer:
    """A server's answer; *headers* by lower-case name.

    *complete*: whether *body* is all of it, or what fitted into the caller's bound.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True


class HttpFailure(EdgePaaSError):
    """There is no answer. The message is for a person and holds no part of the request.

    *sent*: whether the server may have read the request, or a part of it.
    """

    def __init__(self, kind: FailureKind, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.sent = sent


def failure_of(error: BaseException, *, sent: bool) -> HttpFailure:
    """Return what the *error* of a socket, of TLS, of a resolver or of a parser means."""
    kind, message = _meaning(error, sent)
    return HttpFailure(kind, message, sent=sent and kind != "name")


def failure_words(error: BaseException) -> str:
    """Return for a person what the *error* of a connection means, whatever protocol it is for."""
    return _meaning(error, sent=False)[1]


def _meaning(error: BaseException, sent: bool) -> tuple[FailureKind, str]:
    if isinstance(error, ssl.SSLError):
        return "tls", f"TLS failed ({_tls_reason(error)})"
    if isinstance(error, socket.gaierror | UnicodeError):
        why = getattr(error, "strerror", None) or "no host can have it"
        return "name", f"the name cannot be resolved ({why})"
    if isinstance(error, ConnectionRefusedError):
        return "refused", "Connection refused: nothing listens there"
    if isinstance(error, OSError):
        why = error.strerror or type(error).__name__
        return ("closed", f"the connection ended early ({why})") if sent else ("unreachable", why)
    return "protocol", f"it does not speak HTTP ({type(error).__name__})"


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    return error.reason or "it was broken off"
