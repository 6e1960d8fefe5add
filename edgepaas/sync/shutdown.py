# SPDX-License-Identifier: Apache-2.0
"""How the drainer ends: asked for once, from any thread; what is blocked then is cut loose.

Whatever it does can be stopped at any moment, even by ``kill -9``: a batch is wholly on the
hub or not at all, and marks tell which. So an end need never be waited for.
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

#: Seconds between two looks at the decision. The schema stage, which may have to swap the
#: file, comes a Python start after the new decision.
CHECK_INTERVAL = 0.2
#: Seconds that work in progress has before its connections are cut, and before the process
#: ends without it.
ABORT_AFTER = 0.5
EXIT_AFTER = 3.0

logger = logging.getLogger("edgepaas.sync")


class Stopped(EdgePaaSError):
    """The end was asked for in the middle of work, which is given up."""


class StopRequest:
    """Whether the process is to end, and with which exit status; thread-safe."""

    def __init__(self) -> None:
        # Also taken in signal handlers, which interrupt the thread that may hold it.
        self._lock = threading.RLock()
        self._requested = threading.Event()
        self._aborts: dict[object, Callable[[], None]] = {}
        self.status = EXIT_DONE
        self.reason = ""

    @property
    def requested(self) -> bool:
        """Whether the end was asked for."""
        return self._requested.is_set()

    def request(self, status: int, reason: str) -> None:
        """Have the process end; the first to ask decides how."""
        with self._lock:
            if self._requested.is_set():
                return
            self.status, self.reason = status, reason
            self._requested.set()

    def raise_if_requested(self) -> None:
        """Raise Stopped when the end was asked for."""
        if self._requested.is_set():
            raise Stopped(self.reason)

    def wait(self, seconds: float) -> bool:
        """Wait up to *seconds* for it; whether it was asked for."""
        return self._requested.wait(seconds)

    @contextlib.contextmanager
    def abort_on_stop(self, abort: Callable[[], None]) -> Iterator[None]:
        """Have *cut* called, from another thread, when the end comes during the block."""
        token = object()
        with self._lock:
            self._aborts[token] = abort
        try:
            yield
        finally:
            with self._lock:
                del self._aborts[token]

    def abort_blocked_calls(self) -> None:
        """Cut everything loose that the main thread may be blocked in."""
        with self._lock:
            for abort in list(self._aborts.values()):
                abort()


class StopWatcher:
    """Asks for the end when the decision changes or the parent dies; a thread of its own."""

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
        """*lifeline*: a pipe's end that is closed at its other end when the parent dies.

        *wake* ends the main thread's sleep; *exit_process* ends the process if nothing else does.
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
            every=0.0,  # it waits for the end itself
            backoff=Backoff(first=CHECK_INTERVAL, longest=1.0),
        )

    def start(self) -> None:
        """Begin to watch; raises RuntimeError where no thread can be started.

        Without the watch the process must not go on: it is started again by its supervisor.
        """
        self._task.start()
        if not self._task.alive:
            raise RuntimeError(f"the drainer cannot watch the decision: {self._task.problem()}")

    def stop(self) -> None:
        """Stop watching: the process ends in order."""
        self._stopped.set()

    def _turn(self) -> None:
        """Look once; when the end was asked for, see that the process ends."""
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
        logger.warning("what is under way does not end; the process ends without it")
        self._exit_process(self._stop.status)

    def changed(self) -> str:
        """Return what became of the decision, empty while it is the one that is worked on."""
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
        self._stop.request(EXIT_DONE, "the process that ran the chain is gone")
        return True
