# SPDX-License-Identifier: Apache-2.0
"""So many requests a second for each client, and no more memory for it than a small table."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from flask import Flask, request

from edgepaas.apikit.blueprint import READ_FAILED
from edgepaas.apikit.problems import Problem
from edgepaas.app.append import OUTCOME
from edgepaas.web.access.auth import is_platform_probe
from edgepaas.web.access.locality import client_network, is_local

#: Clients remembered; the one whose last request is oldest is forgotten first.
MOST_CLIENTS = 4096


class RateLimiter:
    """A token bucket for each client: *rate* a second, bursts of up to *burst*."""

    def __init__(
        self, rate: float, burst: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def seconds_to_wait(self, client: str) -> float:
        """Take one request off *client*'s bucket; return 0, or how long to wait for one."""
        with self._lock:
            now = self._clock()
            left, at = self._buckets.pop(client, (self._burst, now))
            left = min(self._burst, left + (now - at) * self._rate)
            wait = 0.0 if left >= 1 else (1 - left) / self._rate
            self._buckets[client] = (left if wait else left - 1, now)
            if len(self._buckets) > MOST_CLIENTS:
                self._buckets.popitem(last=False)
            return wait


def install_rate_limit(app: Flask, rate: float, burst: float) -> RateLimiter | None:
    """Answer 429 to clients beyond the box that ask too often; *rate* 0 switches it off."""
    if rate <= 0:
        return None
    limiter = RateLimiter(rate, burst)

    @app.before_request
    def limit() -> None:
        if is_platform_probe(app) or is_local(request):
            return
        if OUTCOME in request.environ or READ_FAILED in request.environ:
            return  # let through already, when it was run
        wait = limiter.seconds_to_wait(client_network(request.remote_addr))
        if wait:
            raise Problem(429, retry_after=wait)

    return limiter
