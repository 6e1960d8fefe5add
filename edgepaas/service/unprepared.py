# SPDX-License-Identifier: Apache-2.0
"""Answering for a boot chain that failed: 503 with the reason, in the place of a silent port.

The socket stays open whatever becomes of the stages, so a client would wait in its queue until it
gives up, and nobody could tell a broken setting from a dead machine.
"""

import logging
import signal
import threading
from pathlib import Path

from edgepaas.errors import EXIT_DONE, EXIT_FAILED
from edgepaas.files.paths import Paths
from edgepaas.httpd.listen import Listening
from edgepaas.httpd.server import HTTPServer
from edgepaas.httpd.startup_responder import NotReady, StartupResponder
from edgepaas.sd_notify import Notifier
from edgepaas.service.crash_loop import CrashLoop
from edgepaas.service.shutdown import Control, Ending

#: Enough for probes and for people who look.
_THREADS = 2
_CONNECTIONS = 100
_REQUEST_BYTES = 64 * 1024
#: Seconds for open requests at the end.
_PATIENCE = 2.0
#: Seconds between two looks whether the settings were changed, which ends the wait.
_LOOK_EVERY = 0.5
#: What a client is told: the reason may name paths and settings, and is for probes.
_FOR_CLIENTS = "It could not be prepared for its start; its log and 'edgepaas doctor' say why."

logger = logging.getLogger("edgepaas.service")


class UnpreparedService:
    """Answers 503 with *reason* on handed-down sockets, for as long as the crash loop backs off."""

    def __init__(self, paths: Paths, listening: Listening, notifier: Notifier, reason: str) -> None:
        self._paths = paths
        self._notifier = notifier
        self._reason = reason
        responder = StartupResponder(NotReady("starting", reason, _FOR_CLIENTS))
        self._server = HTTPServer(
            responder,
            listening.sockets,
            threads=_THREADS,
            connection_limit=_CONNECTIONS,
            connections_per_client=_CONNECTIONS,
            request_max_bytes=_REQUEST_BYTES,
        )
        self._control = Control(self._server.wake)

    def run(self) -> int:
        """Answer until it is time to try again; returns the exit status. For the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        seconds = CrashLoop(self._paths.crash_loop).failed()
        logger.error(
            "answering 503 for %.1f s, then the chain runs again: %s", seconds, self._reason
        )
        self._notifier.status(f"answering 503: {self._reason}")
        self._server.dispatcher.refuse_parked()
        waiter = threading.Thread(target=self._wait, args=(seconds,), name="waiter", daemon=True)
        waiter.start()
        self._server.run(lambda: self._control.ending is not None)
        ending = self._control.ending
        assert ending is not None  # noqa: S101 - the loop ends on nothing else
        self._server.drain(lambda: True, accept_waiting=ending.accept_waiting)
        self._server.close()
        return ending.status

    def _wait(self, seconds: float) -> None:
        changed = _changed_at(self._paths.env_file)
        left = seconds
        while left > 0 and not self._control.wait(min(left, _LOOK_EVERY)):
            left -= _LOOK_EVERY
            if _changed_at(self._paths.env_file) != changed:
                break
        self._control.end(Ending(EXIT_FAILED, self._reason, _PATIENCE))

    def _on_stop(self, number: int, _frame: object) -> None:
        reason = f"{signal.Signals(number).name} was received"
        self._control.stop(Ending(EXIT_DONE, reason, _PATIENCE, accept_waiting=True))


def _changed_at(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
