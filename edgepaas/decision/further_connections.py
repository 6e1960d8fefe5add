# SPDX-License-Identifier: Apache-2.0
"""The connections that a box needs besides the first one: whether a server at its limit has them.

A server that takes one more connection is of no use to a service that needs three: it would
be chosen, fail at the gate, be held, and be chosen again.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgepaas.files.locks import is_locked
from edgepaas.pgdriver.connection import close_quietly
from edgepaas.pgdriver.failures import ConnectFailure, Failure
from edgepaas.timing.deadline import Scope

#: Without these a box does not serve from PostgreSQL: one for requests, of which it opens more
#: as long as there are any, and one that asks whether the server still answers.
TO_SERVE = 2
#: One more is the drainer's, which copies shared tables and delivers what SQLite took.
TO_DELIVER = 1
#: Seconds of the attempt that are kept for saying what came of it.
_MARGIN = 0.05
#: Seconds after which a connection is closed, whatever holds up the attempt.
_LONGEST_HELD = 120.0


def connections_needed(sync_lock: Path, *, delivers: bool = True) -> int:
    """Return how many connections a start on PostgreSQL needs.

    *sync_lock* is held by the drainer while it lives: it has its connection then. Without
    *delivers* (PostgreSQL alone serves) there is nothing to be delivered.
    """
    if not delivers:
        return TO_SERVE
    return TO_SERVE if is_locked(sync_lock) else TO_SERVE + TO_DELIVER


class FurtherConnections:
    """*count* connections, opened at once beside the first one and held until the block ends."""

    def __init__(self, count: int, log_in: Callable[[float], Any]) -> None:
        """*log_in* gets the seconds that are left; it returns one or raises ConnectFailure."""
        self._count = count
        self._log_in = log_in
        self._over = threading.Event()
        self._ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    @contextlib.contextmanager
    def opened(self, scope: Scope) -> Iterator["FurtherConnections"]:
        """Have them opened during the block, within the time of *scope*."""
        seconds = scope.remaining
        try:
            for _ in range(self._count):
                threading.Thread(
                    target=self._hold, args=(seconds,), name="edgepaas-further", daemon=True
                ).start()
            yield self
        finally:
            self._over.set()

    def require(self, scope: Scope, place: str) -> None:
        """Raise ConnectFailure (busy) where the server at *place* refused one of them.

        One that is not there yet when the time is up was not refused: the link is slow.
        """
        until = time.monotonic() + scope.remaining - _MARGIN
        for _ in range(self._count):
            try:
                error = self._ended.get(timeout=max(until - time.monotonic(), 0.001))
            except queue.Empty:
                return
            if isinstance(error, ConnectFailure) and error.kind is Failure.SILENT:
                continue
            if error is not None:
                raise ConnectFailure(
                    Failure.BUSY,
                    f"{place} has not the {self._count + 1} connections that this box needs: "
                    f"{error}",
                    full=True,
                ) from error

    def _hold(self, seconds: float) -> None:
        try:
            connection = self._log_in(seconds)
        except Exception as error:  # noqa: BLE001 - raised again in the attempt's thread
            self._ended.put(error)
            return
        self._ended.put(None)
        self._over.wait(_LONGEST_HELD)
        close_quietly(connection)
