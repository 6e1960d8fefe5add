# SPDX-License-Identifier: Apache-2.0
"""How the drainer stops: requested once, from any thread; blocked calls are aborted.

It may be stopped at any moment, even by ``kill -9``: a batch is on the hub as a whole or not
at all, and the marks tell which. So no work has to be waited for.
"""

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_DONE, EdgePaaSError
from edgepaas.timing.backoff import Backoff
from edgepaas.timing.periodic_task import PeriodicTask

#: Seconds between two reads of the decision. The schema stage, which may have to swap the
#: file, runs a Python start-up later than the new decision.
CHECK_INTERVAL = 0.2
#: Seconds after the request at which blocked calls are aborted, and at which the process exits
#: whatever it is doing.
ABORT_AFTER = 0.5
EXIT_AFTER = 3.0

logger = logging.getLogger("edgepaas.sync")


class Stopped(EdgePaaSError):
    """A stop was requested in the middle of work, which is abandoned."""


class StopRequest:
    """Whether the process is to stop, and with which exit status; thread-safe."""

    def __init__(self) -> None:
        # Re-entrant: a signal handler may interrupt the very thread that holds it.
        self._lock = threading.RLock()
        self._requested = threading.Event()
        self._aborts: dict[object, Callable[[], None]] = {}
        self.status = EXIT_DONE
        self.reason = ""

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._requested.is_set()

    def request(self, status: int, reason: str) -> None:
        """Request a stop with exit *status*; only the first request counts."""
        with self._lock:
            if self._requested.is_set():
                return
            self.status, self.reason = status, reason
            self._requested.set()

    def raise_if_requested(self) -> None:
        """Raise Stopped if a stop was requested."""
        if self._requested.is_set():
            raise Stopped(self.reason)

    def wait(self, seconds: float) -> bool:
        """Wait up to *seconds*; return whether a stop was requested."""
        return self._requested.wait(seconds)

    @contextlib.contextmanager
    def abort_on_stop(self, abort: Callable[[], None]) -> Iterator[None]:
        """Have *abort* called, from another thread, if a stop comes during the block."""
        token = object()
        with self._lock:
            self._aborts[token] = abort
        try:
            yield
        finally:
            with self._lock:
                del self._aborts[token]

    def abort_blocked_calls(self) -> None:
        """Abort every call that the main thread may be blocked in."""
        with self._lock:
            for abort in list(self._aborts.values()):
                abort()


class StopWatcher:
    """A thread that requests a stop when the decision changes or the parent process dies."""

    def __init__(
        self,
        stop: StopRequest,
        contract: Path,
        generation: str,
        *,
        lifeline: int = -1,
        wake: Callable[[], None] = lambda: None,
        exit_process: Callable[[int], None] = os._exit,
    ) -> None:
        """*lifeline*: the read end of a pipe whose write end closes when the parent dies.

        *wake* interrupts the main thread's sleep; *exit_process* ends the process if the main
        thread does not stop in time.
        """
        self._stop = stop
        self._contract = contract
        self._generation = generation
        self._lifeline = lifeline
        self._wake = wake
        self._exit_process = exit_process
        self._seen: tuple[int, int] | None = None
        self._stopped = threading.Event()

        self._task = PeriodicTask(
            "watch",
            self._turn,
            every=0.0,  # each turn waits by itself
            backoff=Backoff(first=CHECK_INTERVAL, longest=1.0),
        )

    def start(self) -> None:
        """Start the thread; raises RuntimeError where none can be started.

        Without the watch the process must not go on: the supervisor starts it again.
        """
        self._task.start()
        if not self._task.alive:
            raise RuntimeError(f"the drainer cannot watch the decision: {self._task.problem()}")

    def stop(self) -> None:
        """Stop watching: the process exits by itself."""
        self._stopped.set()

    def _turn(self) -> None:
        """Check once; when a stop was requested, make sure that the process exits."""
        if not self._stop.wait(0 if self._parent_died() else CHECK_INTERVAL):
            if reason := self.changed():
                self._stop.request(EXIT_DECIDE_AGAIN, reason)
            return
        self._task.request_stop()
        self._wake()
        asked = time.monotonic()
        if self._stopped.wait(ABORT_AFTER):
            return
        self._stop.abort_blocked_calls()
        if self._stopped.wait(max(0.0, EXIT_AFTER - (time.monotonic() - asked))):
            return
        logger.warning("the work in progress does not stop; exiting without it")
        self._exit_process(self._stop.status)

    def changed(self) -> str:
        """Return how the decision changed; empty while this process works on the current one."""
        from edgepaas.decision.contract import DatabaseContract

        try:
            status = self._contract.stat()
            seen = (status.st_ino, status.st_mtime_ns)
            if seen == self._seen:
                return ""
            found = DatabaseContract.read(self._contract).generation
        except (OSError, EdgePaaSError):
            return "a new decision is being made"
        self._seen = seen
        return "" if found == self._generation else f"a new decision was made ({found})"

    def _parent_died(self) -> bool:
        if self._lifeline < 0 or not select.select([self._lifeline], [], [], 0)[0]:
            return False
        self._stop.request(EXIT_DONE, "the parent process is gone")
        return True
