# SPDX-License-Identifier: Apache-2.0
"""The only place that turns errors into HTTP: one body, whatever went wrong."""

import logging
import traceback
import uuid
from collections.abc import Callable
from functools import partial
from typing import cast

import marshmallow as ma
from flask import Flask, Response, request
from sqlalchemy.exc import StatementError

from edgepaas.apikit.fields import flatten
from edgepaas.apikit.problems import PROBLEMS, Detail, Problem, invalid, printable, too_long
from edgepaas.apikit.werkzeug_adapter import (
    HTTPException,
    RequestEntityTooLarge,
    abort_data,
    has_route,
    is_from_routing,
)
from edgepaas.database.failures import refused_by_type, refused_values
from edgepaas.errors import (
    DatabaseBusy,
    DatabaseError,
    DatabaseFull,
    DatabaseRefused,
    ValueRefused,
)
from edgepaas.logs import request_id
from edgepaas.logs.redact import redact
from edgepaas.web.access.locality import is_local

#: Of werkzeug's own headers these say something that our body does not.
_KEPT_HEADERS = frozenset({"allow", "retry-after", "www-authenticate", "content-range", "location"})

logger = logging.getLogger("edgepaas.web")


def install_errors(app: Flask, *, debug: bool = False) -> None:
    """Have every failure in *app* answered with the one error body.

    With *debug* a bug's traceback is in the body's details, for programs of the box itself.
    """
    app.register_error_handler(Problem, answer_problem)
    app.register_error_handler(DatabaseError, answer_database_error)
    app.register_error_handler(ma.ValidationError, answer_validation_error)
    app.register_error_handler(HTTPException, answer_http_exception)
    bug = answer_bug_in_detail if debug else answer_bug
    app.register_error_handler(StatementError, partial(answer_statement_error, bug=bug))
    app.register_error_handler(ValueRefused, answer_refused_value)
    app.register_error_handler(Exception, bug)


def answer_problem(problem: Problem) -> Response:
    """Answer a Problem that a view raised."""
    response = Response(
        problem.encoded(request_id.get()), status=problem.status, mimetype="application/json"
    )
    response.headers.update(problem.headers)
    return response


def answer_database_error(error: DatabaseError) -> Response:
    """Answer 507 for a full disk, 422 for what cannot be stored, else 503 with Retry-After."""
    if isinstance(error, DatabaseFull):
        logger.error("%s %s: no room left: %s", request.method, request.path, error)
        return answer_problem(Problem(507))
    if isinstance(error, DatabaseRefused):
        logger.warning("%s %s: %s", request.method, request.path, error)
        return answer_problem(Problem(422, f"The database cannot store this: {error}."))
    logger.warning("%s %s: %s: %s", request.method, request.path, type(error).__name__, error)
    message = (
        "The database is busy; nothing was stored. Try again."
        if isinstance(error, DatabaseBusy)
        else "The database cannot be reached right now. Try again."
    )
    return answer_problem(Problem(503, message, retry_after=error.retry_after))


def answer_refused_value(error: ValueRefused) -> Response:
    """Answer 422 for a value that its column's type refused."""
    text = printable(str(error))
    logger.warning("%s %s: a column refused a value: %s", request.method, request.path, text)
    return answer_problem(Problem(422, f"The database cannot store this: {text}."))


def answer_statement_error(
    error: StatementError, *, bug: Callable[[Exception], Response]
) -> Response:
    """Answer 409 or 422 for values that the database refused; anything else is a *bug*.

    An application that expects such an error catches it; where none does, the values are the
    client's all the same.
    """
    refusal = refused_by_type(error)
    if refusal is not None:
        return answer_refused_value(refusal)
    refused = refused_values(error)
    if refused is None:
        return bug(error)
    text = printable(refused.text)
    logger.warning("%s %s: the database refused a value: %s", request.method, request.path, text)
    if refused.conflict:
        message = f"This contradicts what is stored: {text}."
        return answer_problem(Problem(409, message))
    return answer_problem(Problem(422, f"The database cannot store this: {text}."))


def answer_validation_error(error: ma.ValidationError) -> Response:
    """Answer 422 for a schema that a view loaded by itself."""
    return answer_problem(invalid(flatten(error.messages)))


def answer_http_exception(error: HTTPException) -> Response:
    """Answer what Flask and Werkzeug raise, and what ``abort()`` was called with."""
    status = error.code or 500
    if status < 400:  # not modified, a redirect: no error, werkzeug writes it
        return cast(Response, error.get_response(request.environ))
    headers = {name: value for name, value in error.get_headers() if name.lower() in _KEPT_HEADERS}
    limit = request.max_content_length
    if isinstance(error, RequestEntityTooLarge) and limit is not None:
        return answer_problem(too_long(limit))
    if status == 404 and is_from_routing(error) and (name := _no_uuid()):
        return answer_problem(Problem(404, f"There is nothing here: '{name}' is no UUID."))
    data = abort_data(error)
    if data is not None:
        details = flatten(data.get("messages") or data.get("errors") or {})
        return answer_problem(
            Problem(status, str(data.get("message", "")), details=details, headers=headers)
        )
    message = "" if status in PROBLEMS else (error.description or "")
    return answer_problem(Problem(status, message, headers=headers))


def _no_uuid() -> str:
    """Return the address' last part if a UUID in its place would lead somewhere, else ""."""
    above, _, last = request.path.rpartition("/")
    if not last or not has_route(f"{above}/{uuid.UUID(int=0)}", "GET"):
        return ""
    return printable(last)


def answer_bug(error: Exception) -> Response:
    """Answer 500 for an unexpected error; the log has its traceback under the request's id."""
    logger.error("%s %s failed", request.method, request.path, exc_info=error)
    return answer_problem(Problem(500))


def answer_bug_in_detail(error: Exception) -> Response:
    """Answer 500 with the traceback, secrets redacted, to a client on this box."""
    answer = answer_bug(error)
    if not is_local(request):
        return answer
    lines = redact("".join(traceback.format_exception(error))).splitlines()
    details: list[Detail] = [{"path": "traceback", "message": line} for line in lines]
    return answer_problem(Problem(500, f"{type(error).__name__} here.", details=details))
