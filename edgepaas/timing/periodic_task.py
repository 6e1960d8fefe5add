# SPDX-License-Identifier: Apache-2.0
"""Work that is done again and again in a thread of its own, and that no error ends.

Whatever the work raises, ``SystemExit`` and ``MemoryError`` included, is caught, counted and
logged, and the work is tried again after a back-off. A thread that cannot be started, has
ended, or is late reports that as its :meth:`PeriodicTask.problem`;
:class:`edgepaas.timing.task_registry.TaskRegistry` starts it again, and alerts.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgepaas.timing.backoff import Backoff

Severity = Literal["info", "warning", "critical"]

#: Failures in a row from which on a task has a problem: one error may pass by itself.
FAILURES_OF_A_PROBLEM = 2
#: Seconds of the back-off between failed runs.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0

_LONGEST_ERROR = 300

logger = logging.getLogger("edgepaas.tasks")


@dataclass(frozen=True)
class TaskAlert:
    """How a task that has a problem is alerted.

    *consequence* says what that means and what to do. It is raised once the problem has
    lasted *after* seconds, under *fingerprint* (default: ``task:NAME``).
    """

    consequence: str = "'edgepaas doctor' looks for causes, and the log has the traceback."
    severity: Severity = "critical"
    fingerprint: str = ""
    after: float = 0.0


class PeriodicTask:
    """Runs *work* every so many seconds in a daemon thread called *name*.

    All times are in seconds. *every* lies between the end of one run and the start of the
    next, unless *work* returns another pause; the first run comes after *first_after*.
    :meth:`wake` has it run at once, after *gather* more seconds in which other wake-ups join.

    *release* gives back what the work holds between two runs (a lock, an open file). It is
    called in the task's thread, after a failure and at the end, and may be called twice.
    With *final_run*, the work is done once more after :meth:`stop` was called. A run that
    takes longer than *late_after*, or is overdue by more, counts as late.

    *clock* is monotonic; it measures, and the waiting is done in real time.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], float | None],
        *,
        every: float,
        first_after: float = 0.0,
        gather: float = 0.0,
        late_after: float = 60.0,
        final_run: bool = False,
        release: Callable[[], None] | None = None,
        backoff: Backoff | None = None,
        alert: TaskAlert | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.alert = alert or TaskAlert()
        #: Called in the task's thread when a run failed, or succeeded after that.
        self.on_change: Callable[[], None] = lambda: None
        #: How many runs failed, since the task was made.
        self.failures = 0
        self._work = work
        self._every = every
        self._first_after = first_after
        self._gather = gather
        self._late_after = late_after
        self._final_run = final_run
        self._release = release
        self._backoff = backoff or Backoff(first=FIRST_PAUSE, longest=LONGEST_PAUSE, clock=clock)
        self._clock = clock
        self._wakeup = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted = self._starting = False
        self._ended = False
        self._succeeded = False
        self._error = ""
        self._start_error = ""
        #: The moment from which on it is late, unless a run begins or ends before.
        self._late_at = float("inf")
        self._running = False

    # -- for the one who owns it --

    def start(self) -> None:
        """Start the thread unless it runs; never raises.

        A thread that cannot be started now is one of the task's problems: calling this again
        tries again, as the registry does with back-off.
        """
        with self._lock:
            if self._stopping.is_set() or self._ended or self.alive:
                return
            self._starting = self._wanted = True
            before = self._thread
            if before is not None:  # it died of something that even its own handler could not take
                self.failures += 1
                self._backoff.failed()
            try:
                self._start(again=before is not None)
            except (RuntimeError, MemoryError) as error:  # no more threads, or no stack for one
                self._thread, self._start_error = before, describe(error)
                self.failures += 1
                self._backoff.failed()
                logger.error("the thread %s cannot be started: %s", self.name, error)
            finally:
                self._starting = False

    def _start(self, *, again: bool) -> None:
        # Known before it runs: it is looked at from within its first run, too.
        self._thread = threading.Thread(
            target=self._run, args=(again,), name=self.name, daemon=True
        )
        self._thread.start()
        self._start_error = ""

    def wake(self) -> None:
        """Have the work done soon; a back-off after failures is not cut short."""
        self._wakeup.set()

    def request_stop(self) -> None:
        """Have the thread end; does not wait for it. May be called from its own work."""
        self._stopping.set()
        self._wakeup.set()

    def stop(self, seconds: float) -> None:
        """Have the thread end, and wait up to *seconds* for it."""
        self.request_stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, seconds))

    # -- for those who look at it --

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def works(self) -> bool:
        """Whether its last run succeeded; False before the first one."""
        return self._succeeded and not self._backoff.failures

    @property
    def due_to_start(self) -> bool:
        """Whether the thread is to be started again now: it is wanted, and not there."""
        over = self._stopping.is_set() or self._ended
        return self._wanted and not over and not self.alive and self._backoff.remaining == 0.0

    def problem(self) -> str:
        """Return what is wrong with it, as ``fails again and again: …``; empty: nothing is."""
        if not self._wanted or self._ended or self._stopping.is_set():
            return ""
        if not self.alive and not self._starting:
            if self._start_error:
                return f"cannot be started: {self._start_error}"
            return f"has ended, and is started again{f': {self._error}' if self._error else ''}"
        if self._error and self._backoff.failures >= FAILURES_OF_A_PROBLEM:
            return f"fails again and again: {self._error}"
        if self._clock() > self._late_at:
            doing = "has been at work for" if self._running else "is late by"
            return f"{doing} more than {self._late_after:g} s"
        return ""

    # -- the thread --

    def _run(self, again: bool) -> None:
        if again:
            self._give_back()  # what a thread that died has left
        pause = self._first_after
        stopping = False
        while not stopping:
            try:
                stopping = self._wait(pause)
                if stopping and not self._final_run:
                    break
                pause = self._run_once()
            except BaseException as error:  # noqa: BLE001 - e.g. no memory to report a failure
                pause, self._error = LONGEST_PAUSE, type(error).__name__
                stopping = self._stopping.is_set()
        self._give_back()
        self._ended = True

    def _wait(self, seconds: float) -> bool:
        """Wait for the next run; returns whether the end was asked for."""
        self._running = False
        self._late_at = self._clock() + seconds + self._gather + self._late_after
        if self._backoff.failures:
            self._stopping.wait(seconds)
        elif self._wakeup.wait(seconds) and self._gather:
            self._stopping.wait(self._gather)
        self._wakeup.clear()
        return self._stopping.is_set()

    def _run_once(self) -> float:
        """Do the work once; returns the seconds until the next run."""
        self._running = True
        self._late_at = self._clock() + self._late_after
        try:
            asked = self._work()
        except BaseException as error:  # noqa: BLE001 - not even SystemExit may end a watch
            return self._failed(error)
        failed_before = self._backoff.failures > 0
        if failed_before or not self._succeeded:
            self._backoff.succeeded()
            self._error, self._succeeded = "", True
            if failed_before:
                logger.info("the thread %s works again", self.name)
            self.on_change()
        return self._every if asked is None else asked

    def _failed(self, error: BaseException) -> float:
        self.failures += 1
        pause = self._backoff.failed()
        before, self._error = self._error, describe(error)
        if self._error != before:
            retry = "the thread %s failed; it is tried again in %.1f s"
            logger.error(retry, self.name, pause, exc_info=error)
        else:
            logger.warning("the thread %s failed again: %s", self.name, self._error)
        self._give_back()
        self.on_change()
        return pause

    def _give_back(self) -> None:
        if self._release is None:
            return
        try:
            self._release()
        except BaseException:  # as the work's: not even SystemExit may end the thread
            logger.exception("the thread %s could not give back what it held", self.name)


def describe(error: BaseException) -> str:
    """Return *error* in one line: its type and its message."""
    try:
        text = " ".join(str(error).split())[:_LONGEST_ERROR]
    except Exception:  # noqa: BLE001 - its class has no text, and its type says enough
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
