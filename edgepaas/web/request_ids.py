# SPDX-License-Identifier: Apache-2.0
"""``X-Request-ID``: taken from the caller when it is sound, else made; echoed and logged."""

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from edgepaas.logs import request_id

HEADER = "X-Request-ID"

#: What may stand in a log line and a header as it is.
_SOUND = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}\Z")


_LINE = "%s %s %s in %.1f ms"
#: Longer paths are cut in the log.
_LONGEST_PATH = 500
#: So many lines in so many seconds at INFO; what is beyond is logged at DEBUG alone.
_BUDGET, _PERIOD = 100, 60.0

logger = logging.getLogger("edgepaas.request")


def sound_or_new(given: str | None) -> str:
    """Return *given* when it is a sound id, else a new one of 16 hexadecimal digits."""
    return given if given is not None and _SOUND.match(given) else secrets.token_hex(8)


class RequestIDs:
    """WSGI middleware: sets the id for the logs before anything else runs, and echoes it.

    At LOG_LEVEL=DEBUG each answer is a line, with method, path, status and time; at INFO each to
    a request that a client gave an id, since that is what it will ask for, within _BUDGET. The
    query is left out: it may hold a token, or people's data.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        given = environ.get("HTTP_X_REQUEST_ID")
        chosen = sound_or_new(given)
        # Worker threads are used again: whatever the last request set is replaced here,
        # and stays while the server writes this answer and logs about it.
        request_id.set(chosen)
        began = time.perf_counter()

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            level = _level(chosen == given)
            if logger.isEnabledFor(level):
                _log(level, environ, status, time.perf_counter() - began)
            kept = [(name, value) for name, value in headers if name.lower() != HEADER.lower()]
            return start_response(status, [*kept, (HEADER, chosen)], *more)

        return self._app(environ, start)


def log_answer(
    chosen: str, method: str, path: str, status: str, seconds: float, *, given: bool = False
) -> None:
    """Log the answer to a request that did not pass through :class:`RequestIDs`, as that does.

    In its own context: the thread is not the request's. *given*: the client chose the id.
    """
    level = _level(given)
    if logger.isEnabledFor(level):
        before = request_id.set(chosen)
        try:
            logger.log(level, _LINE, method, path[:_LONGEST_PATH], status, seconds * 1000)
        finally:
            request_id.reset(before)


class _LineBudget:
    """How many lines may still be written at INFO: a client must not rotate the log away."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._left = float(_BUDGET)
        self._at = clock()

    def take(self) -> bool:
        """Whether one more may be written."""
        with self._lock:
            now = self._clock()
            self._left = min(_BUDGET, self._left + (now - self._at) * _BUDGET / _PERIOD)
            self._at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True


_budget = _LineBudget()


def _level(given: bool) -> int:
    return logging.INFO if given and _budget.take() else logging.DEBUG


def _log(level: int, environ: dict[str, Any], status: str, seconds: float) -> None:
    # PEP 3333: the path's bytes as Latin-1.
    path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace")
    method = environ.get("REQUEST_METHOD", "-")
    logger.log(level, _LINE, method, path[:_LONGEST_PATH], status[:3], seconds * 1000)
