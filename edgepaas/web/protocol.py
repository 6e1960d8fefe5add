"""Below WSGI: what Waitress makes of a request before Flask sees it.

Waitress answers 501 to a transfer coding that a client made up, drops the connection
on a Content-Length of five thousand digits, and waits for ever for the body of a
request that announces one with ``Expect`` and has none. Nothing that a client sends is
to cause a 5xx or to hold a connection. Imports Waitress and the standard library alone:
liveness is answered before anything else is there.
"""

from waitress.parser import HTTPRequestParser, ParsingError, TransferEncodingNotImplemented


class Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """Waitress' parser, with 400 for every header that no client may send."""

    completed: bool
    chunked: bool
    headers: dict[str, str]

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the header; raises ParsingError, which Waitress answers with 400."""
        try:
            super().parse_header(header_plus)
        except TransferEncodingNotImplemented as error:
            # RFC 9112, 6.1 asks for 501; nothing that a client sends is our failure.
            raise ParsingError(str(error)) from None
        except ValueError:  # int() on thousands of digits, a broken address
            raise ParsingError("the request's address or Content-Length is invalid") from None
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            # RFC 9112, 6.3: two lengths are how requests are smuggled past a proxy.
            raise ParsingError("Content-Length and Transfer-Encoding contradict each other")

    def received(self, data: bytes) -> int:
        """Take *data*; return how many of its bytes belong to this request."""
        taken = int(super().received(data))
        if self.completed:
            # The channel would still invite the body and take the request for open.
            self.expect_continue = False
        return taken
