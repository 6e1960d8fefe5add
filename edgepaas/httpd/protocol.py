# SPDX-License-Identifier: Apache-2.0
"""Below WSGI: what Waitress makes of a request before Flask sees it.

Waitress answers 501 to a transfer coding that a client made up, drops the connection
on a Content-Length of five thousand digits, waits for ever for the body of a request
that announces one with ``Expect`` and has none, and for a chunk of any size. Nothing
that a client sends is to cause a 5xx or to hold a connection. Imports Waitress and the
standard library alone: liveness is answered before anything else is there.
"""

import re
from http import HTTPStatus
from typing import Any

from edgepaas.apikit.problems import Problem
from edgepaas.httpd.waitress_adapter import (
    AdaptedParser,
    BadRequest,
    ParsingError,
    RequestEntityTooLarge,
    TransferEncodingNotImplemented,
)

#: A body makes progress with each further so many bytes.
MIN_PROGRESS = 5000
#: Maximum bytes of a chunk's size line or of the trailer, which is parsed anew with each packet.
LONGEST_LINE = 8192
#: Heads that are kept, with what they were parsed to, and the bytes of the longest: a device
#: sends the same one each time, and parsing it costs more than decoding its body.
MOST_HEADS = 64
LONGEST_HEAD = 1024
_heads: dict[bytes, dict[str, Any]] = {}

_TRANSFER_ENCODING = re.compile(rb"(?im)^transfer-encoding:([^\r\n]*)")


class Refused:
    """A request whose body is not read, as Waitress knows such."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.code = problem.status
        self.reason = HTTPStatus(problem.status).phrase
        self.body = problem.message


class Parser(AdaptedParser):
    """Waitress' parser, with 400 for every header that no client may send."""

    _counted = -MIN_PROGRESS
    #: Asked, once the head is here and more of the body is to come, whether it may; with it
    #: the client's address. Nobody is to be asked where it is None.
    limits: Any = None
    address = ""
    #: Whether a body may come.
    admitted = False

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the header; raises ParsingError, which Waitress answers with 400."""
        known = _heads.get(header_plus)
        if known is not None:
            self.adopt_head(known)
            return
        try:
            super().parse_header(header_plus)
        except TransferEncodingNotImplemented as error:
            # RFC 9112, 6.1 asks for 501. A 5xx would count as an error of the box, and it is the
            # client's.
            raise ParsingError(str(error)) from None
        except ValueError:  # int() on thousands of digits, a broken address
            raise ParsingError("the request's address or Content-Length is invalid") from None
        self._check_framing(header_plus)
        if not self.chunked and len(header_plus) <= LONGEST_HEAD:
            if len(_heads) >= MOST_HEADS:
                del _heads[next(iter(_heads))]
            _heads[header_plus] = self.parsed_head()

    def _check_framing(self, head: bytes) -> None:
        """Refuse a head that a proxy may read otherwise: so requests are smuggled past it."""
        codings = _TRANSFER_ENCODING.findall(head)
        if codings and self.version != "1.1":
            # RFC 9112, 6.1. Left alone, its body would be taken for the next request.
            raise ParsingError(f"HTTP/{self.version} has no Transfer-Encoding")
        if codings and [coding.strip(b" \t").lower() for coding in codings] != [b"chunked"]:
            raise ParsingError("Transfer-Encoding has to be chunked, once")
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length and Transfer-Encoding contradict each other")
        if "," in self.headers.get("HOST", ""):  # RFC 9112, 3.2; Waitress joins what comes twice
            raise ParsingError("there is more than one Host header")

    def received(self, data: bytes) -> int:
        """Take *data*; return how many of its bytes belong to this request."""
        taken = int(super().received(data))
        if self.chunked and not self.completed:
            self._check_chunk()
        if self.expect_continue and self.headers_finished:
            self.ask()
        if self.completed:
            # The channel would still invite the body and take the request for open.
            self.expect_continue = False
        return taken

    def progressed(self) -> bool:
        """Whether, since last asked, the head was completed or MIN_PROGRESS of the body came."""
        if not self.headers_finished or self.body_bytes_received - self._counted < MIN_PROGRESS:
            return False
        self._counted = self.body_bytes_received
        return True

    def ask(self) -> bool:
        """Whether the request is refused now, since its body is still to come, and may not."""
        if self.completed or self.admitted or not self.headers_finished:
            return False
        if self.limits is not None and self.limits.refusal is None:
            return False  # it is not known yet; the channel reads no more meanwhile
        problem = self.limits and self.limits.refusal(self, self.address)
        self.admitted = problem is None
        if problem is not None:
            self.error = Refused(problem)
            self.completed = True
        return self.completed

    def _check_chunk(self) -> None:
        """Refuse a chunk by the size that it announces, without waiting for its bytes."""
        body, limit = self.body_rcv, self.adj.max_request_body_size
        if len(body) + body.chunk_remainder >= limit:
            self.error = RequestEntityTooLarge(f"exceeds max_body of {limit}")
        elif len(body.control_line) > LONGEST_LINE or len(body.trailer) > LONGEST_LINE:
            self.error = BadRequest("A chunk's head or the trailer is too long")
        else:
            return
        self.completed = True
