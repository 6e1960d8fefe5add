# SPDX-License-Identifier: Apache-2.0
"""What is used of Werkzeug beyond requests and answers; no other module imports it.

- ``ClientDisconnected``: raised by ``request.get_data()`` for a body that is shorter than its
  Content-Length; ``RequestEntityTooLarge`` for one beyond MAX_CONTENT_LENGTH, where
  ``request.max_content_length`` is the limit.
- ``HTTPException``: base of what routing and ``abort()`` raise; ``code``, ``description``,
  ``get_headers()``, ``get_response(environ)``, and ``data``, in which webargs' ``abort()``
  leaves the messages.
- ``request.routing_exception``: the very exception that routing has raised for the request.
- ``Rule._trace``: the parts of a route's path, as (is a variable, text), after a part "|"
  that ends the host's.
- ``MapAdapter.test(path, method)``, by ``current_app.create_url_adapter(request)``.

``tests/unit/test_adapter_werkzeug.py`` fails when a new version changes any of it. The upper
bound in ``pyproject.toml`` is the first version that was not tested.
"""

from collections.abc import Mapping
from typing import Any

from flask import current_app, request
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge
from werkzeug.routing import Rule

__all__ = [
    "ClientDisconnected",
    "HTTPException",
    "RequestEntityTooLarge",
    "abort_data",
    "has_route",
    "is_from_routing",
    "openapi_path",
]


def is_from_routing(error: HTTPException) -> bool:
    """Whether *error* is what routing made of the current request, and no view's own."""
    return error is request.routing_exception


def has_route(path: str, method: str) -> bool:
    """Whether a route of the current application answers *method* at *path*."""
    routes = current_app.create_url_adapter(request)
    return routes is not None and routes.test(path, method)


def openapi_path(rule: Rule) -> str:
    """Return the route's path as OpenAPI writes it: ``/devices/{device_id}``."""
    return "".join(f"{{{text}}}" if variable else text for variable, text in rule._trace[1:])


def abort_data(error: HTTPException) -> Mapping[str, Any] | None:
    """Return what webargs' ``abort()`` was given beside the status; None: nothing."""
    data = getattr(error, "data", None)
    return data if isinstance(data, Mapping) else None
