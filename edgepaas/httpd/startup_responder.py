# SPDX-License-Identifier: Apache-2.0
"""What is answered before the application is there, and after it is gone.

Importing Flask, SQLAlchemy and the application takes most of a start. Until that is
done, and again while the service stops, this answers: live at once, ready with 503.
Standard library only.
"""

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from edgepaas.apikit.problems import Problem
from edgepaas.web.probe_paths import is_probe

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: Seconds after which a client that was answered 503 may try again.
RETRY_AFTER = 2

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")


@dataclass(frozen=True)
class NotReady:
    """Why the application does not answer: the box's state and one line for an operator.

    *client* is a sentence for any client; the reason may name paths, and is for probes.
    """

    state: str
    reason: str
    client: str = ""


class StartupResponder:
    """The WSGI application that the server calls; what stands behind it changes over time."""

    def __init__(self, phase: NotReady) -> None:
        self._phase: NotReady | None = phase
        self._application: WSGIApplication | None = None

    def open(self, application: WSGIApplication) -> None:
        """Let *application* answer everything from now on."""
        self._application = application
        self._phase = None

    def close(self, phase: NotReady) -> None:
        """Answer 503 for everything but health; without an application, health as well."""
        self._phase = phase

    def reopen(self) -> None:
        """Take a :meth:`close` back; the application answers again."""
        if self._application is not None:
            self._phase = None

    @property
    def is_open(self) -> bool:
        """Whether the application answers."""
        return self._application is not None and self._phase is None

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        phase, application = self._phase, self._application
        if application is not None and (phase is None or _is_probe(environ)):
            return application(environ, start_response)
        return _answer(phase or NotReady("starting", ""), environ, start_response)


def _is_probe(environ: dict[str, Any]) -> bool:
    return is_probe(environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", ""))


def _answer(
    phase: NotReady, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    given = environ.get("HTTP_X_REQUEST_ID", "")
    request_id = given if _REQUEST_ID.match(given) else os.urandom(8).hex()
    headers: dict[str, str] = {}
    probe = _is_probe(environ)
    if probe and environ["PATH_INFO"] == "/health/live":
        status, body = "200 OK", _json({"status": "ok"})
    elif probe:
        status = "503 Service Unavailable"
        reasons = [phase.reason] if phase.reason else []
        body = _json(
            {"status": "unavailable", "state": phase.state, "reasons": reasons, "checks": []}
        )
        headers["Retry-After"] = str(RETRY_AFTER)
    else:
        status = "503 Service Unavailable"
        message = f"The service is {phase.state}; try again. {phase.client}".rstrip()
        problem = Problem(503, message, retry_after=RETRY_AFTER)
        body = problem.encoded(request_id)
        headers |= problem.headers
    headers |= {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Request-ID": request_id,
    }
    start_response(status, list(headers.items()))
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


def _json(value: dict[str, object]) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"
