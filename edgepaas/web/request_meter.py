# SPDX-License-Identifier: Apache-2.0
"""Counts requests, by route, method and status, and how long they took.

Its own few lines: the metrics library is imported by the first scrape, not by every box
that nobody scrapes.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, request

#: Upper bounds in seconds; the last bucket is infinity.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: The label of requests that match no route: a client's invented paths must not become series.
UNMATCHED = "none"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: The environ key of the route that answered.
ROUTE = "edgepaas.route"


@dataclass
class Durations:
    """A histogram's raw numbers: a count a bucket, not cumulated, and the sum in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        """How many were measured."""
        return sum(self.counts)

    def cumulated(self) -> Iterator[tuple[str, float]]:
        """Give each bucket's upper bound as text and how many took no longer."""
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            total += count
            yield bound, total


class RequestMeter:
    """Middleware that counts; safe to use from several threads.

    A request is measured up to the head of its answer: what the box did, not the client's
    line.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._durations: dict[tuple[str, str, str], Durations] = {}

    def install(self, app: Flask) -> None:
        """Count the requests of *app* from now on."""

        @app.after_request
        def note_route(response: Response) -> Response:
            if request.url_rule is not None:
                request.environ[ROUTE] = request.url_rule.rule
            return response

        app.wsgi_app = self._counting(app.wsgi_app)  # type: ignore[method-assign]

    def durations(self) -> list[tuple[tuple[str, str, str], Durations]]:
        """Return how many there were and how long they took, by method, route and status."""
        with self._lock:
            return [
                (labels, Durations(list(found.counts), found.seconds))
                for labels, found in sorted(self._durations.items())
            ]

    def _counting(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        def counted(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            began = time.perf_counter()

            def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
                self._count(environ, status[:3], time.perf_counter() - began)
                return start_response(status, headers, *more)

            return app(environ, start)

        return counted

    def _count(self, environ: dict[str, Any], status: str, seconds: float) -> None:
        method = environ.get("REQUEST_METHOD", "")
        method = method if method in _METHODS else "other"
        self.count(method, environ.get(ROUTE, UNMATCHED), status, seconds)

    def count(self, method: str, route: str, status: str, seconds: float) -> None:
        """Count a request to *route* that was answered with *status* after *seconds*."""
        bucket = bisect_left(BUCKETS, seconds)
        labels = method, route, status
        with self._lock:
            found = self._durations.get(labels)
            if found is None:
                found = self._durations[labels] = Durations()
            found.counts[bucket] += 1
            found.seconds += seconds
