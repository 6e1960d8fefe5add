# SPDX-License-Identifier: Apache-2.0
"""One stage that runs, and the events that ``edgepaas up`` waits for."""

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from edgepaas.errors import EXIT_DONE, EXIT_FAILED
from edgepaas.httpd.listen import FIRST_DESCRIPTOR
from edgepaas.supervisor.launcher import Launcher
from edgepaas.supervisor.notify_socket import NotifySocket
from edgepaas.supervisor.stage_processes import SERVICE

_STOP = (signal.SIGTERM, signal.SIGINT)
#: Seconds that a hung service has to leave a trace before it is killed.
_ABORT_GRACE = 2.0
#: Seconds that a start which took too long has to end by itself before it is killed.
_START_GRACE = 10.0
_LONGEST_WAIT = 60.0

logger = logging.getLogger("edgepaas.up")


@dataclass(frozen=True)
class ReceivedSignals:
    """What woke the supervisor; *interrupt*: it was Ctrl-C that asks to stop."""

    stop: bool = False
    interrupt: bool = False
    hangup: bool = False


class Events:
    """Turns signals into something to wait for together with a child's messages."""

    def __enter__(self) -> Self:
        # What comes before the pipe takes it waits: handled without it, it would be lost.
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before = {number: signal.signal(number, _noted) for number in _SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        os.close(self._read)
        os.close(self._write)

    def wait(self, child: "Child | None", *, timeout: float) -> ReceivedSignals:
        """Wait up to *timeout* seconds for a signal or a message from *child*."""
        readable = [self._read]
        if child is not None:
            readable.append(child.notify_socket.fileno())
        select.select(readable, [], [], max(0.0, timeout))
        numbers = b""
        with contextlib.suppress(BlockingIOError):
            numbers = os.read(self._read, 4096)
        return ReceivedSignals(
            stop=any(number in numbers for number in _STOP),
            interrupt=signal.SIGINT in numbers and signal.SIGTERM not in numbers,
            hangup=signal.SIGHUP in numbers,
        )


_SIGNALS = (*_STOP, signal.SIGHUP, signal.SIGCHLD)


def reap(*concerned: Callable[[int, int], bool]) -> None:
    """Take in every child that ended; the first of *concerned* whose child it was returns True.

    A process that none of them started is an orphan that PID 1 inherited. Each is called with
    the process id and the exit status; a negative one is the signal that ended the process.
    """
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, how = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            status = os.waitstatus_to_exitcode(how)
            any(take(pid, status) for take in concerned)


def _noted(_number: int, _frame: object) -> None:
    """Do nothing: the byte in the wake-up pipe is the message."""


class Child:
    """A stage's process, and its notify socket; the service has a lifeline and a watchdog as well.

    Within *limit* seconds a stage has to end and the service to be ready, unless they ask for
    more (EXTEND_TIMEOUT_USEC of sd_notify(3)), as under TimeoutStartSec= of systemd.service(5).
    """

    def __init__(
        self,
        stage: str,
        pid: int,
        notify_socket: NotifySocket,
        *,
        limit: float,
        lifeline: int = -1,
    ) -> None:
        self.stage = stage
        self.pid = pid
        self.notify_socket = notify_socket
        self.status: int | None = None
        self.ready_at: float | None = None
        self.watchdog = 0.0
        self._lifeline = lifeline
        self._heard = self._began = time.monotonic()
        self._start_by: float | None = self._began + limit
        self._overdue = False
        self._kill_at: float | None = None

    @classmethod
    def start_stage(cls, launcher: Launcher, stage: str, *, limit: float) -> "Child":
        """Start a stage that ends by itself."""
        notify_socket = NotifySocket()
        pid = launcher.start_stage(stage, {"NOTIFY_SOCKET": notify_socket.address})
        return cls(stage, pid, notify_socket, limit=limit)

    @classmethod
    def start_service(
        cls, launcher: Launcher, *, sockets: Sequence[int], watchdog: float, limit: float
    ) -> "Child":
        """Start the stage that stays, on *sockets*; *watchdog* is in seconds."""
        notify_socket = NotifySocket()
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        lifeline = FIRST_DESCRIPTOR + len(sockets)
        try:
            pid = launcher.start_service(
                [SERVICE, "--lifeline", str(lifeline)],
                {
                    "NOTIFY_SOCKET": notify_socket.address,
                    "WATCHDOG_USEC": str(int(watchdog * 1_000_000)),
                },
                sockets=sockets,
                others=[theirs],
            )
        finally:
            os.close(theirs)
        child = cls(SERVICE, pid, notify_socket, limit=limit, lifeline=ours)
        child.watchdog = watchdog
        return child

    @property
    def is_service(self) -> bool:
        """Whether it is the stage that stays."""
        return self.stage == SERVICE

    @property
    def ended(self) -> bool:
        """Whether the process has ended; ``status`` is its exit status."""
        return self.status is not None

    def messages(self) -> list[str]:
        """Return the lines that it sent since the last call, and note that it is alive."""
        lines = self.notify_socket.read(self.pid)
        if lines:
            self._heard = time.monotonic()
        if "READY=1" in lines and self.ready_at is None:
            self.ready_at, self._start_by = self._heard, None
        return lines

    def extend(self, seconds: float) -> None:
        """Give its start *seconds* from now, if that is more than it has."""
        if self._start_by is not None:
            self._start_by = max(self._start_by, time.monotonic() + seconds)

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has been reaped."""
        if self.status is None:
            os.kill(self.pid, number)

    def stop(self, patience: float, *, interrupt: bool = False) -> None:
        """Ask the process to end; after *patience* seconds it is killed.

        *interrupt* passes Ctrl-C on as what it was, to a service that is ready for it: to
        a Python that is still starting it would be an exception in the middle of an import.
        """
        ready = self.ready_at is not None
        self.signal(signal.SIGINT if interrupt and ready else signal.SIGTERM)
        if self._kill_at is None:
            self._kill_at = time.monotonic() + patience

    def record_exit(self, pid: int, status: int) -> bool:
        """Take note that the process *pid* ended; whether it was this one."""
        if pid == self.pid and self.status is None:
            # A service that is asked to end during its start ends with 0, which this was not.
            self.status = EXIT_FAILED if self._overdue and status == EXIT_DONE else status
            return True
        return False

    def next_deadline(self, now: float) -> float:
        """Return in how many seconds :meth:`enforce_deadlines` has something to do."""
        deadlines = [now + _LONGEST_WAIT]
        if self._kill_at is not None:
            deadlines.append(self._kill_at)
        elif self._start_by is not None:
            deadlines.append(self._start_by)
        elif self.watchdog and self.ready_at is not None:
            deadlines.append(self._heard + self.watchdog)
        return max(0.0, min(deadlines) - now)

    def enforce_deadlines(self, now: float) -> None:
        """Kill what does not end, end a start that takes too long, abort a silent service."""
        if self.ended:
            return
        if self._kill_at is not None:
            if now >= self._kill_at:
                logger.error("process %d does not end; it is killed", self.pid)
                self.signal(signal.SIGKILL)
                self._kill_at = now + _LONGEST_WAIT
        elif self._start_by is not None:
            if now >= self._start_by:
                self._overdue = True
                logger.error(
                    "'edgepaas %s' is not %s after %.0f s; it is ended",
                    self.stage,
                    "ready" if self.is_service else "done",
                    now - self._began,
                )
                self.stop(_START_GRACE)
        elif self.watchdog and self.ready_at is not None and now >= self._heard + self.watchdog:
            logger.error("the service has been silent for %g s; it is ended", self.watchdog)
            self.signal(signal.SIGABRT)
            self._kill_at = now + _ABORT_GRACE

    def close(self) -> None:
        """Close what belongs to the process that has ended."""
        self.notify_socket.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
