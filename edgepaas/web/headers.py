# SPDX-License-Identifier: Apache-2.0
"""Headers of every response: content policy for browsers, and CORS."""

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request

if TYPE_CHECKING:
    from edgepaas.settings import Settings

#: Responses are data: browsers must not render, frame, content-sniff or run them.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, X-Request-ID"
_EXPOSED = "X-Request-ID, Retry-After, Location"


class SecurityHeaders:
    """WSGI middleware: adds the security headers that an answer has not set for itself."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._pairs = [(name.lower(), (name, value)) for name, value in SECURITY_HEADERS.items()]

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            set_already = {name.lower() for name, _ in headers}
            added = [pair for name, pair in self._pairs if name not in set_already]
            return start_response(status, headers + added, *more)

        return self._app(environ, start)


def install_cors(app: Flask, settings: "Settings") -> dict[str, str]:
    """Let the pages of the origins that the settings list read every answer of *app*.

    Returns the headers of an answer to a request that no page of another site has sent.
    """
    origins = frozenset(settings.items("CORS_ORIGINS")) if settings.flag("CORS_ENABLED") else ()
    if not origins:
        return {}

    @app.before_request
    def answer_preflight() -> Response | None:
        # It carries no credentials by its definition (Fetch standard, 4.8): answered here,
        # for nothing behind a guard may run without them.
        return Response() if _is_preflight() and _is_listed(origins) else None

    @app.after_request
    def allow(response: Response) -> Response:
        _allow_origin(response, origins)
        return response

    return {"Vary": "Origin"}


def _allow_origin(response: Response, origins: Collection[str]) -> None:
    """Let a listed site's pages read the answer (Fetch standard, 3.2 CORS protocol)."""
    response.vary.add("Origin")
    if not _is_listed(origins):
        return
    headers = response.headers
    headers["Access-Control-Allow-Origin"] = "*" if "*" in origins else request.headers["Origin"]
    headers["Access-Control-Expose-Headers"] = _EXPOSED
    headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    if _is_preflight():
        headers["Access-Control-Allow-Methods"] = _METHODS
        headers["Access-Control-Allow-Headers"] = _REQUEST_HEADERS
        headers["Access-Control-Max-Age"] = "600"


def _is_preflight() -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _is_listed(origins: Collection[str]) -> bool:
    origin = request.headers.get("Origin")
    return origin is not None and ("*" in origins or origin in origins)
