# SPDX-License-Identifier: Apache-2.0
"""``X-Request-ID``: taken from the caller when it is sound, else made; echoed and logged."""

import logging
import re
import secrets
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

logger = logging.getLogger("edgepaas.request")


def sound_or_new(given: str | None) -> str:
    """Return *given* when it is a sound id, else a new one of 16 hexadecimal digits."""
    return given if given is not None and _SOUND.match(given) else secrets.token_hex(8)


class RequestIDs:
    """WSGI middleware: sets the id for the logs before anything else runs, and echoes it.

    At LOG_LEVEL=DEBUG each answer is a line, with method, path, status and time. The query
    is left out: it may hold a token, or people's data.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        chosen = sound_or_new(environ.get("HTTP_X_REQUEST_ID"))
        # Worker threads are used again: whatever the last request set is replaced here,
        # and stays while the server writes this answer and logs about it.
        request_id.set(chosen)
        began = time.perf_counter()

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            if logger.isEnabledFor(logging.DEBUG):
                _log(environ, status, time.perf_counter() - began)
            kept = [(name, value) for name, value in headers if name.lower() != HEADER.lower()]
            return start_response(status, [*kept, (HEADER, chosen)], *more)

        return self._app(environ, start)


def log_answer(chosen: str, method: str, path: str, status: str, seconds: float) -> None:
    """Log the answer to a request that did not pass through :class:`RequestIDs`, as that does.

    In its own context: the thread is not the request's.
    """
    if logger.isEnabledFor(logging.DEBUG):
        before = request_id.set(chosen)
        try:
            logger.debug(_LINE, method, path[:_LONGEST_PATH], status, seconds * 1000)
        finally:
            request_id.reset(before)


def _log(environ: dict[str, Any], status: str, seconds: float) -> None:
    # PEP 3333: the path's bytes as Latin-1.
    path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace")
    method = environ.get("REQUEST_METHOD", "-")
    logger.debug(_LINE, method, path[:_LONGEST_PATH], status[:3], seconds * 1000)
