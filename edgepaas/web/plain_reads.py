# SPDX-License-Identifier: Apache-2.0
"""Lists that have nothing unusual about their request, answered without Flask.

In the worker's thread, below the middleware that every answer passes through. What is decided
here is decided as Flask, the guards and the view decide it for every other request, or not at
all: whatever is not at once found good goes on to them, and they word every error.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from flask import Flask

from edgepaas.apikit.blueprint import READ_FAILED, PlainRead
from edgepaas.apikit.problems import Problem
from edgepaas.errors import DatabaseError
from edgepaas.web.access.locality import client_network, is_local_environ
from edgepaas.web.plain_appends import UNUSUAL, Hooks, is_usual_host
from edgepaas.web.request_meter import ROUTE

if TYPE_CHECKING:
    from edgepaas.web.access.auth import Guard
    from edgepaas.web.access.rate_limits import RateLimiter

logger = logging.getLogger("edgepaas.web")

Application = Callable[..., Iterable[bytes]]

_UNUSUAL = frozenset(f"HTTP_{name}" for name in UNUSUAL)
#: Names and values in one query; more are looked at by the ordinary way.
_MOST_FIELDS = 20


class PlainReads:
    """WSGI middleware around *app*: answers what :meth:`use` named; the rest goes on."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._routes: Mapping[str, PlainRead] = {}
        self._guard: Guard | None = None
        self._limiter: RateLimiter | None = None
        self._headers: list[tuple[str, str]] = []

    def use(
        self,
        routes: Mapping[str, PlainRead],
        guard: "Guard | None",
        limiter: "RateLimiter | None",
        *,
        headers: Mapping[str, str],
    ) -> None:
        """Answer *routes*, by path, as *guard* and *limiter* allow, with *headers*.

        *guard* None: everybody is let in.
        """
        self._routes, self._guard, self._limiter = routes, guard, limiter
        self._headers = [("Content-Type", "application/json"), *headers.items()]

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        route = self._routes.get(path)
        if route is None or environ["REQUEST_METHOD"] != "GET":
            return self._app(environ, start_response)
        text = self._answer(route, environ)
        if text is None:
            return self._app(environ, start_response)
        body = text.encode("ascii")
        environ[ROUTE] = path
        start_response("200 OK", [*self._headers, ("Content-Length", str(len(body)))])
        return [body]

    def _answer(self, route: PlainRead, environ: dict[str, Any]) -> str | None:
        """Return the body of the answer; None: the ordinary way has to look at the request."""
        host = environ.get("HTTP_HOST", "")
        if not _UNUSUAL.isdisjoint(environ) or not is_usual_host(host):
            return None
        address = environ.get("REMOTE_ADDR", "")
        guard = self._guard
        if guard is not None:
            authorization = environ.get("HTTP_AUTHORIZATION")
            may_read = partial(guard.is_open_to, environ)
            if guard.find(authorization, is_local=may_read, writes=False) is None:
                return None
        local = is_local_environ(environ)
        try:
            query = environ.get("QUERY_STRING", "")
            pairs = parse_qsl(
                query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
            )
            loaded = route.load(pairs)
            if not (local or self._may_ask(address)):
                return None
            return route.answer(loaded)
        except (DatabaseError, Problem) as error:
            # The ordinary way answers it, and asks neither the view nor the limit again.
            environ[READ_FAILED] = error
        except Exception as error:  # noqa: BLE001 - the ordinary way meets it again, and answers
            logger.debug("GET %s: %r, looked at by the ordinary way", environ["PATH_INFO"], error)
        return None

    def _may_ask(self, address: str) -> bool:
        limiter = self._limiter
        return limiter is None or not limiter.seconds_to_wait(client_network(address))


def plain_read_routes(app: Flask, own_hooks: Hooks) -> dict[str, PlainRead]:
    """Return by path the routes of *app* that may be answered so.

    Not where the application has functions run before or after its requests, beside
    *own_hooks*, which are the platform's.
    """
    found: dict[str, PlainRead] = {}
    for rule in app.url_map.iter_rules():
        read = getattr(app.view_functions[rule.endpoint], "plain_read", None)
        if not isinstance(read, PlainRead) or rule.arguments:
            continue
        if not own_hooks.differ(app, rule.endpoint):
            found[rule.rule] = read
    return found
