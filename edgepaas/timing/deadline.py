# SPDX-License-Identifier: Apache-2.0
"""A deadline that holds whatever the other side does: the work runs in a thread of its own.

A timeout on a socket bounds one read; a server that sends a byte now and then never
exceeds it, and a resolver knows no timeout at all. So the work goes to a daemon thread
while the caller waits for as long as it may, then shuts the socket down under the work
and goes on without it.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: A socket must not be given 0, which means non-blocking.
_LEAST = 0.001


class OutOfTime(Exception):
    """The time was up; ``stage`` says what the work was doing."""

    def __init__(self, stage: str, seconds: float) -> None:
        super().__init__(f"{f'{stage}: ' if stage else ''}not done within {seconds:g} s")
        self.stage = stage
        self.seconds = seconds


class Scope:
    """What the work shares with the thread that waits for it."""

    def __init__(self, seconds: float, longest: float | None = None) -> None:
        """*longest*: seconds beyond which :meth:`extend` gives no time (default: *seconds*)."""
        self.seconds = seconds
        #: What is being done now; for the message when the time is up.
        self.stage = ""
        self._began = time.monotonic()
        self._longest = max(seconds, longest if longest is not None else seconds)
        self._end = self._began + seconds
        self._lock = threading.Lock()
        self._guarded: socket.socket | None = None
        self._over = False

    def enter(self, stage: str) -> float:
        """Name the next stage; returns the seconds left for it, or raises OutOfTime."""
        left = self._end - time.monotonic()
        if self._over or left <= 0:
            raise OutOfTime(self.stage or stage, self.seconds)
        self.stage = stage
        return max(left, _LEAST)

    @property
    def remaining(self) -> float:
        """The seconds left; a little more than 0 when there are none."""
        return max(self._end - time.monotonic(), _LEAST)

    @property
    def left(self) -> float:
        """Seconds until the time is up, as it stands now."""
        return self._end - time.monotonic()

    def extend(self, seconds: float) -> None:
        """Let the work go on for *seconds* from now, where that is more than it has left.

        For work that has shown that the other side answers, slowly.
        """
        end = min(time.monotonic() + seconds, self._began + self._longest)
        if end > self._end:
            self._end = end
            self.seconds = round(end - self._began, 1)

    def guard(self, sock: socket.socket) -> None:
        """Have *sock* shut down when the time is up, so that what is blocked on it returns.

        A duplicate of the descriptor is kept: the original may be wrapped (TLS) or
        closed, and its number given to another file, at any moment.
        """
        duplicate = socket.socket(sock.family, sock.type, sock.proto, os.dup(sock.fileno()))
        with self._lock:
            if self._over:
                _cut(duplicate)
                raise OutOfTime(self.stage, self.seconds)
            previous, self._guarded = self._guarded, duplicate
        if previous is not None:
            previous.close()

    def finish(self) -> bool:
        """End the guarding; False when the time was up before."""
        with self._lock:
            in_time, self._over = not self._over, True
            if self._guarded is not None:
                self._guarded.close()
                self._guarded = None
        return in_time

    def abandon(self) -> bool:
        """Cut what is guarded; False when the work had finished before."""
        with self._lock:
            running, self._over = not self._over, True
            if self._guarded is not None:
                _cut(self._guarded)
                self._guarded = None
        return running


class _Outcome(Generic[T]):
    """What the thread leaves behind; read only once its event is set."""

    result: T
    error: BaseException | None = None


def within(
    seconds: float,
    work: Callable[[Scope], T],
    *,
    longest: float | None = None,
    discard: Callable[[T], object] | None = None,
    abort: Callable[[], object] | None = None,
    name: str = "edgepaas-bounded",
) -> T:
    """Run ``work(scope)`` and return its result or raise its error, within *seconds*.

    The work may extend them, up to *longest* seconds altogether (:meth:`Scope.extend`).

    OutOfTime is raised when the time is up, whatever the work is blocked in. The thread,
    called *name*, is then left to itself, after *abort* was called to unblock it; what it may
    still return goes to *discard*. It is a daemon, so it keeps no process from ending.
    RuntimeError is raised where no thread can be started.
    """
    scope = Scope(seconds, longest)
    outcome: _Outcome[T] = _Outcome()
    done = threading.Event()

    def run() -> None:
        try:
            outcome.result = work(scope)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome.error = error
        if not scope.finish():
            late, outcome.error = outcome.error, None
            if late is None and discard is not None:
                with contextlib.suppress(Exception):  # no caller is left to raise it in
                    discard(outcome.result)
            del late
        done.set()

    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        # Within: it waits for the thread to be up, which may have a connection by then.
        thread.start()
        finished = done.wait(seconds)
        while not finished and scope.left > 0:  # it was extended meanwhile
            finished = done.wait(scope.left)
    except BaseException:  # Ctrl-C, or a signal handler that raises
        scope.abandon()
        raise
    if not finished:
        if scope.abandon():
            if abort is not None:
                with contextlib.suppress(OSError):
                    abort()
            raise OutOfTime(scope.stage, scope.seconds)
        done.wait()  # it finished in this very moment
    # An error that stayed here would hold, through its traceback, the frame that holds it:
    # a cycle, and with it the socket would stay open until the collector comes by.
    error, outcome.error = outcome.error, None
    try:
        if error is not None:
            raise error
        return outcome.result
    finally:
        del error


def _cut(sock: socket.socket) -> None:
    # ENOTCONN: it was not connected yet, or the other side has gone already.
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
