# SPDX-License-Identifier: Apache-2.0
"""The one error body, and the exception that carries it; standard library only.

``{"error", "message", "request_id", "details"}``: *error* is a word for programs,
*message* a sentence for people, *details* a list of ``{"path", "message"}``, empty
unless fields of the request are to blame.
"""

import json
from collections.abc import Iterable, Mapping
from typing import TypedDict


class Detail(TypedDict):
    """One wrong field: ``readings[3].value`` and what is wrong with it."""

    path: str
    message: str


class ErrorBody(TypedDict):
    """What every error is answered with."""

    error: str
    message: str
    request_id: str
    details: list[Detail]


#: The word and the sentence of each status; a Problem may say something closer.
PROBLEMS: dict[int, tuple[str, str]] = {
    400: ("bad_request", "The request cannot be understood."),
    401: ("unauthorized", "A token is needed: 'Authorization: Bearer TOKEN'."),
    403: ("forbidden", "This token may not do that."),
    404: ("not_found", "There is nothing here."),
    405: ("method_not_allowed", "This method is not allowed here."),
    406: ("not_acceptable", "Nothing that is accepted can be produced."),
    408: ("timeout", "The request took too long to arrive."),
    409: ("conflict", "This contradicts what is stored already."),
    411: ("length_required", "The request's length has to be given."),
    413: ("too_large", "The request is too large."),
    414: ("address_too_long", "The address is too long."),
    415: ("unsupported_media_type", "The body has a type that is not understood here."),
    422: ("invalid", "Some of what was sent is wrong."),
    429: ("too_many_requests", "Too many requests; slow down."),
    431: ("headers_too_large", "The request's headers are too large."),
    500: ("internal_error", "Something went wrong here; the log has it under this request's id."),
    501: ("not_implemented", "That is not supported."),
    503: ("unavailable", "Not available right now; try again."),
    507: ("disk_full", "There is no room left to store this; reading still works."),
}

#: The most details in one answer.
MOST_DETAILS = 100


class Problem(Exception):
    """A request is answered with *status* and the one error body.

    *retry_after* is in seconds; *headers* are added to the answer.
    """

    def __init__(
        self,
        status: int,
        message: str = "",
        *,
        error: str = "",
        details: Iterable[Detail] = (),
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        default_error, default_message = PROBLEMS.get(
            status, ("error", f"The request failed with status {status}.")
        )
        self.status = status
        self.error = error or default_error
        self.message = message or default_message
        self.details = list(details)
        self.headers = dict(headers or {})
        if retry_after is not None:
            # RFC 9110, 10.2.3: whole seconds; less than one would mean "at once".
            self.headers["Retry-After"] = str(max(1, round(retry_after)))
        super().__init__(self.message)

    def body(self, request_id: str) -> ErrorBody:
        """Return the error body, with at most MOST_DETAILS details."""
        details = self.details[:MOST_DETAILS]
        left = len(self.details) - len(details)
        if left:
            details.append({"path": "", "message": f"and {left} more"})
        return {
            "error": self.error,
            "message": self.message,
            "request_id": request_id,
            "details": details,
        }

    def encoded(self, request_id: str) -> bytes:
        """Return the error body as JSON; ASCII, so that no encoding can go wrong."""
        return json.dumps(self.body(request_id), separators=(",", ":")).encode("ascii") + b"\n"


def printable(text: str) -> str:
    """Return *text*, which a client sent, short and fit for a message, a log or a path."""
    shown = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return shown[:100]


def wrong(path: str, message: str) -> Problem:
    """Return the 422 for one wrong field."""
    return invalid([{"path": path, "message": message}])


def too_long(limit: int) -> Problem:
    """Return the 413 for a body of more than *limit* bytes."""
    return Problem(413, f"The body is too long: REQUEST_MAX_BYTES allows {limit:,} bytes.")


def invalid(details: Iterable[Detail]) -> Problem:
    """Return the 422 for several wrong fields; its message names the first."""
    found = list(details)
    if not found:
        return Problem(422)
    first = found[0]
    where = f"{first['path']}: " if first["path"] else ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Problem(422, f"{where}{first['message']}{more}", details=found)
