# SPDX-License-Identifier: Apache-2.0
"""The drainer's turn at handing back: a rehearsal beside the drain, then the steps.

Between them rows are drained as ever for the time of a login: the process that is to be the
next service connects in it, while writes are still taken.
"""

import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgepaas.outbox.ledger import pending
from edgepaas.sync.takeover.rehearsal import VALID, Rehearsal, RehearsalFailed, Rehearsed

if TYPE_CHECKING:
    from edgepaas.sync.handback import HandBack
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.report import LiveStatus

logger = logging.getLogger("edgepaas.sync")

#: Seconds between two looks at a rehearsal that is under way.
_POLL = 0.05

#: Sends a batch to the hub; calls what it is given when it is about to read the rows.
SendBatch = Callable[[sqlite3.Connection, "Hub", Callable[[], None]], int]


@dataclass
class TakeoverTurn:
    """What the main thread does once nothing speaks against handing back."""

    handback: "HandBack"
    rehearsal: Rehearsal
    report: "LiveStatus"
    send_batch: SendBatch
    send_heartbeat: Callable[["Hub"], None]
    clock: Callable[[], float] = time.monotonic
    #: The rehearsal that has passed, and when the next service will have connected.
    _passed: Rehearsed | None = field(default=None, init=False)
    _due_at: float = field(default=0.0, init=False)

    def seconds_left(self) -> float:
        """Return the seconds until :meth:`take` goes on with what it began; infinity: nothing."""
        if self._passed is not None:
            return max(0.0, self._due_at - self.clock())
        return _POLL if self.rehearsal.running else float("inf")

    def forget(self) -> None:
        """Let what a rehearsal found be no reason to hand back: PostgreSQL has failed since."""
        self._passed = None

    def take(self, connection: sqlite3.Connection, hub: "Hub") -> None:
        """Begin a rehearsal, or hand back where one has passed.

        Raises TakeoverFailed and what the hub and the file raise; SQLite goes on serving.
        """
        if self._passed is None and not self._rehearsed():
            return
        rehearsed, late = self._passed, self.clock() - self._due_at
        if rehearsed is None or late < 0:
            return
        self._passed = None
        if late > VALID:
            self.rehearsal.begin()
            return

        def drain(before_reading: Callable[[], None]) -> None:
            self.send_batch(connection, hub, before_reading)
            self.report.set_waiting(pending(connection), time.time())

        # The deadline aborts the connection, since a silent server never answers.
        self.handback.attempt(
            connection,
            drain,
            lambda: self.send_heartbeat(hub),
            abort=hub.abort,
            revisions=rehearsed.revisions,
        )

    def _rehearsed(self) -> bool:
        """Whether a rehearsal has passed, which is announced; begin one where there was none."""
        try:
            found = self.rehearsal.take()
        except RehearsalFailed as error:
            self.handback.refuse(str(error))
            logger.warning("PostgreSQL is not handed back to: %s", error)
            return False
        if found is None:
            self.rehearsal.begin()
            return False
        logger.debug("the rehearsal took %.1f s", found.seconds)
        self.handback.announce(found.revisions)
        self._passed = found
        self._due_at = self.clock() + self.handback.connecting_time
        return True
