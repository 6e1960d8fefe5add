# SPDX-License-Identifier: Apache-2.0
"""Notifying the service manager: sd_notify(3), and nothing where there is none."""

import time
from collections.abc import Mapping
from typing import Protocol

#: What :meth:`Notifier.next_round` sends.
NEXT_ROUND = "X_EDGEPAAS_NEXT_ROUND"


class Sender(Protocol):
    """What the notifier needs of :class:`sdnotify.SystemdNotifier`."""

    def notify(self, state: str) -> None:
        """Send one message."""


class Notifier:
    """Sends the states of this process; every method may be called from any thread.

    Without NOTIFY_SOCKET nothing is sent and nothing is imported. ``watchdog`` is the
    time in seconds after which the manager ends a silent process; 0 when it does not.
    """

    def __init__(self, sender: Sender | None, *, watchdog: float = 0.0) -> None:
        self._sender = sender
        self.watchdog = watchdog
        self._status = ""

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> "Notifier":
        """Return the notifier for the process *pid* that was started with *environ*."""
        if not environ.get("NOTIFY_SOCKET"):
            return cls(None)
        import sdnotify

        sender = sdnotify.SystemdNotifier()
        if sender.socket is not None:
            # A manager that does not read must not hang the service on its full buffer.
            sender.socket.settimeout(1.0)
        return cls(sender, watchdog=_watchdog(environ, pid))

    def ready(self, status: str) -> None:
        """Notify that the service is ready (or that a reload is done)."""
        self._status = _line(status)
        self._send("READY=1", f"STATUS={self._status}")

    def status(self, text: str) -> None:
        """Send the one-line state, if it has changed."""
        line = _line(text)
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def alive(self) -> None:
        """Notify the watchdog that workers answer."""
        self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Ask for *seconds* from now before start, stop or watchdog count as overdue."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def next_round(self) -> None:
        """Tell 'edgepaas up' that this service is about to end for a new decision.

        systemd ignores what begins with ``X_`` (sd_notify(3)).
        """
        self._send(f"{NEXT_ROUND}=1")

    def stopping(self, status: str) -> None:
        """Notify that the service ends."""
        self._status = _line(status)
        self._send("STOPPING=1", f"STATUS={self._status}")

    def reloading(self) -> None:
        """Notify that a reload has begun; :meth:`ready` ends it."""
        # Type=notify-reload (systemd 253) needs the time to tell old messages from new.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def _send(self, *lines: str) -> None:
        if self._sender is not None:
            # sdnotify encodes as Latin-1, systemd drops a status that is not UTF-8.
            self._sender.notify("\n".join(lines).encode("utf-8").decode("latin-1"))


def _line(text: str) -> str:
    return " ".join(text.split())


def _watchdog(environ: Mapping[str, str], pid: int) -> float:
    # sd_watchdog_enabled(3): WATCHDOG_PID, where set, names the process.
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return 0.0
    try:
        return max(0, int(environ.get("WATCHDOG_USEC", "0"))) / 1_000_000
    except ValueError:
        return 0.0
