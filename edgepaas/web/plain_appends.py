# SPDX-License-Identifier: Apache-2.0
"""Requests that append facts and have nothing unusual about them, answered without a thread.

What is decided here is decided as Flask, the guards and the view decide it for every other
request, or not at all: whatever is not at once found good is left to them, untouched, and so
is the wording of every error. Nothing here waits.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flask import Flask

from edgepaas.apikit.blueprint import KEY
from edgepaas.apikit.caller import LOCAL
from edgepaas.apikit.plain_json import NotPlain, read_plain
from edgepaas.app.append import AppendRequest, Registered, registered_routes
from edgepaas.database.append import Appended, AppendJob, AppendOutcome
from edgepaas.web.access.locality import (
    LONGEST_HOST,
    client_network,
    is_loopback,
    names_loopback,
)
from edgepaas.web.access.proxies import TrustedProxies
from edgepaas.web.headers import SECURITY_HEADERS
from edgepaas.web.request_ids import log_answer, sound_or_new
from edgepaas.web.request_meter import RequestMeter

if TYPE_CHECKING:
    from edgepaas.web.access.auth import Guard
    from edgepaas.web.access.rate_limits import RateLimiter

logger = logging.getLogger("edgepaas.web")

#: Longer bodies are worth a thread of their own: meanwhile no other connection is served.
LONGEST_BODY = 16 * 1024

#: Headers, as the server names them, for which more has to be looked at than is looked at here.
UNUSUAL = frozenset(
    {
        *("FORWARDED", "X_FORWARDED_FOR", "X_FORWARDED_HOST", "X_FORWARDED_PROTO"),
        *("X_REAL_IP", "VIA", "SEC_FETCH_SITE", "ORIGIN"),
        *("CONTENT_ENCODING", "TRANSFER_ENCODING", "EXPECT"),
    }
)
_JSON = frozenset(
    f"application/json{parameter}"
    for parameter in (
        "",
        *(f";{blank}charset={c}" for blank in ("", " ") for c in ("utf-8", "UTF-8")),
    )
)
_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")

#: Given the answer's body and request id, or the error that the ordinary way is to answer.
Done = Callable[["PlainAnswer | BaseException"], None]


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """The answer 201; its other headers are :attr:`PlainAppends.headers`."""

    body: bytes
    request_id: str


class PlainAppends:
    """Takes the requests of *routes*, by path, as *guard* and *limiter* allow."""

    status = "201 CREATED"
    longest_body = LONGEST_BODY

    def __init__(
        self,
        routes: Mapping[str, Registered],
        guard: "Guard | None",
        limiter: "RateLimiter | None",
        meter: RequestMeter,
        *,
        headers: Mapping[str, str],
        proxies: TrustedProxies,
    ) -> None:
        """*guard* None: everybody is let in. *headers* are those of every answer.

        What *proxies* hand on is left to the ordinary way.
        """
        self._proxies = proxies
        self._routes = routes
        self._guard = guard
        self._limiter = limiter
        self._meter = meter
        self.headers = {"Content-Type": "application/json", **SECURITY_HEADERS, **headers}

    @property
    def paths(self) -> frozenset[str]:
        """The paths of which requests may be taken."""
        return frozenset(self._routes)

    def patience(self, path: str) -> float | None:
        """Return the seconds after which an answer is waited for no longer; None: without end."""
        return self._routes[path].database.patience

    def submit(self, path: str, job: AppendJob) -> None:
        """Have a prepared *job* of *path* run; waits for nothing."""
        self._routes[path].database.submit(job)

    def prepare(
        self, path: str, headers: Mapping[str, str], address: str, body: bytes, done: Done
    ) -> AppendJob | None:
        """Return the job that stores a POST's *body*; None: it is not plain, and untouched.

        *path* is one of :attr:`paths`. *headers* have their names in upper case with
        underscores; *address* is the client's. *done* is called in the thread that writes, or
        within :meth:`submit`: it must not wait.
        """
        began = time.perf_counter()
        host = headers.get("HOST", "")
        if (
            headers.get("CONTENT_TYPE") not in _JSON
            or not UNUSUAL.isdisjoint(headers)
            or not is_usual_host(host)
        ):
            return None
        if address in self._proxies:
            return None
        local = is_loopback(address) and names_loopback(host)
        made = self._request(headers, local=local)
        if made is None:
            return None
        given = headers.get("X_REQUEST_ID")
        request_id = sound_or_new(given)

        def answer(outcome: AppendOutcome) -> None:
            if isinstance(outcome, Appended):
                seconds = time.perf_counter() - began
                self._meter.count("POST", path, "201", seconds)
                chosen = request_id == given
                log_answer(request_id, "POST", path, "201", seconds, given=chosen)
                done(PlainAnswer(_body(outcome), request_id))
            else:
                done(outcome)

        job = self._job(path, body, made, answer)
        if job is None or not (local or self._may_ask(address)):
            return None
        return job

    def _request(self, headers: Mapping[str, str], *, local: bool) -> AppendRequest | None:
        """Return whose request it is; None where it is to be refused."""
        key = headers.get("IDEMPOTENCY_KEY")
        if key is not None and not KEY.match(key):
            return None
        if self._guard is None:
            return AppendRequest(LOCAL.id, key, at_once=True, name=LOCAL.name)
        caller = self._guard.find(headers.get("AUTHORIZATION"), is_local=lambda: local)
        if caller is None:
            return None
        return AppendRequest(caller.id, key, at_once=True, name=caller.name)

    def _job(
        self, path: str, body: bytes, made: AppendRequest, answer: Callable[[AppendOutcome], None]
    ) -> AppendJob | None:
        try:
            return self._routes[path].route.job(read_plain(body), made, answer)
        except NotPlain:
            return None
        except Exception as error:  # noqa: BLE001 - the ordinary way meets it again, and answers
            logger.debug("POST %s: %r, looked at by the ordinary way", path, error)
            return None

    def _may_ask(self, address: str) -> bool:
        limiter = self._limiter
        return limiter is None or not limiter.seconds_to_wait(client_network(address))


def _body(outcome: Appended) -> bytes:
    """Return what the ordinary view's jsonify makes of *outcome*."""
    return b'{"accepted":%d,"duplicates":%d}\n' % (outcome.accepted, outcome.duplicates)


def is_usual_host(host: str) -> bool:
    """Whether the Host header *host* is missing, or a name or an address, perhaps with a port."""
    return not host or (len(host) <= LONGEST_HOST and _is_usual_host(host))


@lru_cache(maxsize=256)
def _is_usual_host(host: str) -> bool:
    return _HOST.match(host) is not None


def plain_routes(app: Flask, own_hooks: "Hooks") -> dict[str, Registered]:
    """Return by path the routes of *app* whose requests may be taken.

    Not those of a database that would have to be waited for, nor any where the application
    has functions run before or after its requests, beside *own_hooks*, which are the platform's.
    """
    endpoints = dict(registered_routes(app.view_functions))
    found: dict[str, Registered] = {}
    for rule in app.url_map.iter_rules():
        registered = endpoints.get(rule.endpoint)
        if registered is None or rule.arguments or not registered.database.appends_at_once:
            continue
        if not own_hooks.differ(app, rule.endpoint):
            found[rule.rule] = registered
    return found


class Hooks:
    """The functions that run around each request, as they were when this was made."""

    def __init__(self, app: Flask) -> None:
        self._own = [list(hooks.get(None, ())) for hooks in _hooks(app)]

    def differ(self, app: Flask, endpoint: str) -> bool:
        """Whether others were added since for the views of *endpoint*'s blueprint, or for all."""
        parts = endpoint.split(".")[:-1]
        names = [".".join(parts[: number + 1]) for number in range(len(parts))]
        return any(
            list(hooks.get(None, ())) != own or any(hooks.get(name) for name in names)
            for hooks, own in zip(_hooks(app), self._own, strict=True)
        )


def _hooks(app: Flask) -> list[Mapping[Any, Any]]:
    return [
        app.before_request_funcs,
        app.after_request_funcs,
        app.teardown_request_funcs,
        app.url_value_preprocessors,
    ]
