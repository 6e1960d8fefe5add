# SPDX-License-Identifier: Apache-2.0
"""How the service ends: asked for once, from any thread, carried out by the main one."""

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ending:
    """The exit *status*, why, and for how many seconds open requests are waited for."""

    status: int
    reason: str
    patience: float
    #: Whether callers that wait in the kernel's queue are still to be taken in.
    accept_waiting: bool = False


class Control:
    """Who wants the service to end, or to read its settings again; all methods are thread-safe."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        # Also taken in signal handlers, which interrupt the thread that may hold it.
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._at_end: list[Callable[[], None]] = []
        self._reload = False
        self.ending: Ending | None = None
        #: Whether somebody asked a second time: open requests are waited for no longer.
        self.hurry = False

    def end(self, ending: Ending) -> bool:
        """Have the service end; the first to ask decides how. True for the first."""
        with self._lock:
            first = self.ending is None
            if first:
                self.ending = ending
                callbacks = list(self._at_end)
        if first:
            # Once: a signal handler that interrupts this must not take the same locks again.
            self._ended.set()
            for callback in callbacks:
                callback()
        self._wake()
        return first

    def at_end(self, callback: Callable[[], None]) -> None:
        """Have *callback* called, once, when the end is asked for; at once if it was already."""
        with self._lock:
            ended = self.ending is not None
            if not ended:
                self._at_end.append(callback)
        if ended:
            callback()

    def stop(self, ending: Ending) -> None:
        """End because somebody said so; asking again means at once."""
        if not self.end(ending):
            self.hurry = True

    def wait(self, seconds: float) -> bool:
        """Wait up to *seconds* for the end to be asked for; whether it was."""
        return self._ended.wait(seconds)

    def ask_reload(self) -> None:
        """Have the main thread read again what can be read again."""
        self._reload = True
        self._wake()

    def take_reload(self) -> bool:
        """Whether a reload was asked for since the last call (the main thread)."""
        asked, self._reload = self._reload, False
        return asked
